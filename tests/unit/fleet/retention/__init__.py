"""Tests of `opq_twisted.fleet.retention`."""
