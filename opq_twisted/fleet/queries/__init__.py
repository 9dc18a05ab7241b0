"""Queries of the database: boxes, attempts and changes in pages, and counts of them."""
