"""`opq-release`: the command line of the key holders; boxes do not get this package."""
