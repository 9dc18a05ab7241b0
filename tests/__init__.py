"""The unit tests: `python -m twisted.trial tests`."""
