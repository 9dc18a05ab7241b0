"""Tests of `opq_twisted.box.update`."""
