"""Tests of `opq_twisted.signing`."""
