"""What is signed and by whom, as boxes, the server and the signer read it (TUF)."""
