"""The format of an update's archive: its name, its compression, its tar stream, and its members."""
