"""Functional tests: real `twistd` processes, driven by real clients (pytest, pytest-twisted)."""
