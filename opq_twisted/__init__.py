"""Updates the software of OPQ Boxes: what a release is, the server that offers it, the box that takes it."""

__version__ = "0.1.0"
