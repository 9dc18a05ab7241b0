"""Updates the software of OPQ Boxes: the release, the server and the box."""

__version__ = "0.2.0"
