"""The agent's settings: their values, and the JSON file that they are read from."""
