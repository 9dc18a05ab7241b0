"""Tests of `opq_twisted.http.guards`."""
