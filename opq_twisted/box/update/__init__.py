"""Takes the box from one release to the next, and back if the next one is bad."""
