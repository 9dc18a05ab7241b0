"""What all the programs share, and what knows none of them."""
