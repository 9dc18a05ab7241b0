"""Tests of `opq_twisted.fleet.web`."""
