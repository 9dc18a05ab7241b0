"""Functional tests: real processes, driven by real clients (pytest, pytest-twisted)."""
