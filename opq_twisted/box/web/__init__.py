"""The box's own page and its HTTP interface."""
