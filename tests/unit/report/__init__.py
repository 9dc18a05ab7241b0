"""Tests of `opq_twisted.report`."""
