"""Tests of `opq_twisted.server`."""
