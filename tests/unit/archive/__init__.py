"""Tests of `opq_twisted.archive`."""
