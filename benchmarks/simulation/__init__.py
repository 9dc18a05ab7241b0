"""A simulated fleet: boxes in homes, and the rules that judge a release by their reports."""
