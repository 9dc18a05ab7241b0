"""Tests of `opq_twisted.cli.fleet`."""
