"""Downloads archives, resumes them, verifies them, and keeps them."""
