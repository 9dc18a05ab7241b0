"""Tests of `opq_twisted.fleet.queries`."""
