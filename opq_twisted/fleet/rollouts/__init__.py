"""Rollouts: their states and orders, and the pace that the timestamp gets from them."""
