"""Unpacks an archive within limits, in a process of its own."""
