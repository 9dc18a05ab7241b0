"""How long a box delays its next report."""

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from opq_twisted.common.backoff import doubling

#: Seconds: the longest random delay of a report.
_MAX_SPREAD = 30.0

#: Seconds: the random delay of a report after failures grows from the first to the second.
_FIRST_BACKOFF, _MAX_BACKOFF = 60.0, 1800.0


class Delay:
    """Delays reports by chance, for longer after failures, and for as long as the server wants."""

    def __init__(self, clock: IReactorTime, spread: float, random: Callable[[], float]) -> None:
        """
        :param spread: the maximum random delay in seconds.
        :param random: gives numbers from 0 up to 1.
        """
        self._clock = clock
        self._spread = min(spread, _MAX_SPREAD)
        self._random = random
        #: Since the last report that was accepted.
        self._failures = 0
        #: The time by the clock until which the server wants no reports.
        self._not_before = 0.0

    @property
    def is_over(self) -> bool:
        """Whether the time is over for which the server wants no reports."""
        return self._clock.seconds() >= self._not_before

    def choose(self) -> float:
        """Choose the seconds until the next report."""
        longest = self._spread
        if self._failures:
            longest = doubling(_FIRST_BACKOFF, _MAX_BACKOFF, self._failures - 1)
        pause = max(0.0, self._not_before - self._clock.seconds())
        return pause + longest * self._random()

    def succeed(self) -> None:
        """Forget the failures: a report was accepted."""
        self._failures, self._not_before = 0, 0.0

    def fail(self, pause: float = 0.0) -> None:
        """
        Lengthen the delay: a report was not accepted.

        :param pause: seconds for which the server wants no report.
        """
        self._failures += 1
        self._not_before = max(self._not_before, self._clock.seconds() + pause)
