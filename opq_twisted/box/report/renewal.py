"""Calls in time for the report that the last one has promised."""

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Seconds before the end of the promised time: the first call comes so long before, and at most so
#: much earlier. The boxes of a fleet that report all at once, for example because a release was
#: announced, report the next time spread over that.
_MARGIN, _SPREAD = 1800.0, 3600.0

#: Seconds before the end of the promised time: the second call. A report needs less, with its
#: random delay after one failure.
_LAST_MARGIN = 600.0


class Renewal:
    """
    Calls twice before the promised time is over: the second call is for a report that has failed.

    The checks for updates cannot trigger these reports: a box may check once a day.
    """

    def __init__(
        self, clock: IReactorTime, random: Callable[[], float], call: Callable[[], None]
    ) -> None:
        """
        :param random: gives numbers from 0 up to 1.
        :param call: sends the report if it is still needed.
        """
        self._clock = clock
        self._random = random
        self._call = call
        self._calls: tuple[IDelayedCall, ...] = ()

    def begin(self, promised: float) -> float:
        """
        Begin anew: a report was accepted.

        :param promised: the seconds within which it has promised the next one.
        :returns: the seconds until the first call.
        """
        self.stop()
        first = promised - _MARGIN - _SPREAD * self._random()
        self._calls = tuple(
            self._clock.callLater(delay, self._call) for delay in (first, promised - _LAST_MARGIN)
        )
        return first

    def stop(self) -> None:
        """Call no more."""
        for call in self._calls:
            if call.active():
                call.cancel()
