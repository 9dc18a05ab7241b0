"""Keeps the database small: counts the past days, and deletes old rows."""
