"""Keeps the timestamp of the signed metadata fresh."""
