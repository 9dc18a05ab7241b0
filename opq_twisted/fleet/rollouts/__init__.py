"""Rollouts: what people decide about a release, and the pace that goes into the timestamp."""
