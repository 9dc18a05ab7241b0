"""The database: its tables, its threads, and what is asked of it."""
