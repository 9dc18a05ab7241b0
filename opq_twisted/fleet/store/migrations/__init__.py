"""Migrations: the steps from the tables of any older program to the present ones."""
