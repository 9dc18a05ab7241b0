"""The fleet: what boxes run and report, and how far each release is rolled out."""
