"""`opq-box`: the command line of a box."""
