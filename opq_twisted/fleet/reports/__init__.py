"""Takes reports over HTTP, checks them, and stores them in batches."""
