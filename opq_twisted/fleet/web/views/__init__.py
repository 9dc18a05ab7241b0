"""Renders the page of the fleet: HTML, charts, and the style."""
