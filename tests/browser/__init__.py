"""The box's page in a real browser."""
