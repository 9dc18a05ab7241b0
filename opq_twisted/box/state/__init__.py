"""The journal, which is the box's memory on disk, and the status, which it shows."""
