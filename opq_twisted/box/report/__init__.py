"""What the box tells the update server about itself, and the key that signs it."""
