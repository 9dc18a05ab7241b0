"""The reports that boxes send to the server: their format and their signature, for both sides."""
