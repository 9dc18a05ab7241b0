"""Unpacks a release, runs its installer, and checks its health."""
