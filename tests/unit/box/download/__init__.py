"""Tests of `opq_twisted.box.download`."""
