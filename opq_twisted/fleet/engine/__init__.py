"""The engine: it judges the rollouts by the reports, and holds or widens them."""
