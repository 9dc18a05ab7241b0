"""The steps that make the tables of today from those of any older program."""
