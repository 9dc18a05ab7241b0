"""The unit tests: one folder for each package of `opq_twisted`."""
