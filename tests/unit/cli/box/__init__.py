"""Tests of `opq_twisted.cli.box`."""
