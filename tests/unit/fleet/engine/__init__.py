"""Tests of the engine that judges rollouts."""
