"""Tests of `opq_twisted.fleet.keys`."""
