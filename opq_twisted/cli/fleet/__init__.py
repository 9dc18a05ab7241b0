"""`opq-fleet`: shows the fleet, and holds, resumes or widens a rollout."""
