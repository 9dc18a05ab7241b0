"""Tests of `opq_twisted.box.install`."""
