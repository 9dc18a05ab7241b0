"""Reaches the update server over HTTP, directly or through a proxy."""
