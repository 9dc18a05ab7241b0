"""The container image of the server, from its build to its end: `make image-test`."""
