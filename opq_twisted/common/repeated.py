"""Counts a log line that repeats, instead of writing it each time."""

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

#: Seconds after which it is said how often a line came again.
_PERIOD = 60.0


class Repeated:
    """
    Writes a line once, and then once a minute how many more there were.

    An attacker, or a machine that is busy, can bring about thousands of equal lines in a second,
    and a box keeps its log on an SD card.
    """

    def __init__(self, clock: IReactorTime, write: Callable[[str], object]) -> None:
        """:param write: writes a line to the log."""
        self._clock = clock
        self._write = write
        self._counting = False
        self._more = 0

    def say(self, line: str) -> None:
        """Write a line, unless a line was written within the last minute: count it then."""
        if self._counting:
            self._more += 1
            self._latest = line
            return
        self._write(line)
        self._counting = True
        self._clock.callLater(_PERIOD, self._end_period)

    def _end_period(self) -> None:
        more, self._more = self._more, 0
        if not more:
            self._counting = False
            return
        self._write(f"{self._latest} ({more:,} more of these in the last minute.)")
        self._clock.callLater(_PERIOD, self._end_period)
