"""Tests of `opq_twisted.trust`."""
