"""Tests of `opq_twisted.cli`."""
