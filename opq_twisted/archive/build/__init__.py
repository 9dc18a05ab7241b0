"""Builds archives on the maintainer's machine; boxes do not get this package."""
