"""Tests of what the box tells the update server about itself."""
