"""Tests of `opq_twisted.box.config`."""
