"""Tests of `opq_twisted.fleet.engine`."""
