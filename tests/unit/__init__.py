"""The unit tests: one folder for each package of `opq_twisted`."""

from hypothesis import HealthCheck, settings

# A busy machine is no reason to fail.
settings.register_profile(
    "busy", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy")
