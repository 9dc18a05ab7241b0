"""The Debian package of the server, from its build to its purge: `make deb-test`."""
