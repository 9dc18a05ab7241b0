"""Tests of `opq_twisted.fleet.webhook`."""
