"""What the box remembers on its disk, and the status that it shows."""
