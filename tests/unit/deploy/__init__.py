"""Tests of the scripts and units in `deploy/`."""
