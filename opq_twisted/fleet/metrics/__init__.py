"""The metrics of the fleet, for Prometheus."""
