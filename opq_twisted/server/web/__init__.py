"""Answers the server's HTTP requests."""
