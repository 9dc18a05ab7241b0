"""The fleet: what boxes report, what they run, and a hand on the brake of a rollout."""
