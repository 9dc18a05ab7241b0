"""What operators do with the keys of boxes, and how one key takes the place of another."""
