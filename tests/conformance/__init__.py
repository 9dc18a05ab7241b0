"""The box's TUF client, as the conformance tests of TUF drive it."""
