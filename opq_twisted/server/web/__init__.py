"""The HTTP resources of the server."""
