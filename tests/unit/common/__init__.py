"""Tests of `opq_twisted.common`."""
