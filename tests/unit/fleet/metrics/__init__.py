"""Tests of `opq_twisted.fleet.metrics`."""
