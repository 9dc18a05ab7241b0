"""Makes timers independent of the system clock, which a box sets after its start."""

import time
from typing import Any


def use_monotonic_time(reactor: Any) -> None:
    """
    Make a reactor measure time with the monotonic clock.

    Twisted's timers are due at a time of day: if the clock is set forward all fire at once, and if
    it is set back they are late by that time. Call this before the first timer is created. Code
    that needs a date calls `time.time`.
    """
    reactor.seconds = time.monotonic
