"""The signed metadata (TUF), as boxes, the server and the signer read it."""
