"""The steps; each one names the step before it."""
