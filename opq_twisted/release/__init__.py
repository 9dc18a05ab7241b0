"""What an update is, and what the server, the box and the builder must agree about."""
