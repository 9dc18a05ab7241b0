"""Tests of `opq_twisted.server.web`."""
