"""What one sees of the page of the fleet: HTML, charts, and the style."""
