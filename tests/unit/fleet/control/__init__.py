"""Tests of `opq_twisted.fleet.control`."""
