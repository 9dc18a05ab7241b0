"""The database: its tables, its connections, its threads and its migrations."""
