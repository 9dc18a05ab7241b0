"""Keeps timers from following a clock that is set: a box learns the time after its start."""

import time
from typing import Any


def use_monotonic_time(reactor: Any) -> None:
    """
    Let a reactor measure time by the monotonic clock.

    Twisted's timers are due at a time of day: when that is set forward they all fire at once, and
    when it is set back they wait for as long. Call this before the first timer is made; what has to
    be a date takes `time.time`.
    """
    reactor.seconds = time.monotonic
