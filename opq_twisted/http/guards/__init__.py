"""The guards of HTTP servers: they check the host, the origin and the password of a request."""
