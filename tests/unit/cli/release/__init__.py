"""Tests of `opq_twisted.cli.release`."""
