"""Takes the box from one release to the next, and back when the next one is bad."""
