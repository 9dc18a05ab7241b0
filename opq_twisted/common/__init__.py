"""The code that all programs share; it imports nothing from the other packages."""
