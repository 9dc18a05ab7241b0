"""Finds out which release the update server offers, and whether this box takes it."""
