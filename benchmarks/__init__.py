"""Measurements; each prints its ratio to a peer that was measured in the same run."""
