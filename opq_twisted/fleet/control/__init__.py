"""The requests of `opq-fleet`, which come over a Unix socket: queries and changes."""
