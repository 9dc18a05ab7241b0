"""Shows on one machine what this project does: `make demo`."""
