"""The page of the fleet, for operators."""
