"""What operators ask for over the Unix socket."""
