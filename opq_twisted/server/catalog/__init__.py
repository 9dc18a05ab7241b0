"""Knows which archives are in the updates directory."""
