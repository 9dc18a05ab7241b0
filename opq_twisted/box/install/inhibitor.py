"""Lets a measurement end before an installation begins."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

#: Seconds that an update waits at most: a file that was forgotten must not hold back all updates.
MAX_WAIT = 3600.0

#: Seconds between two looks at the file.
_POLL_INTERVAL = 5.0


class Inhibitor:
    """A file that the box's other daemons hold while nothing may be installed."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, path: Path, now: Callable[[], float]) -> None:
        """:param now: the time of day, in seconds since the epoch."""
        self._clock = clock
        self._path = path
        self._now = now
        self._update: float | None = None
        self._deadline = 0.0

    async def wait_until_released(self, update: float, report: Callable[[str], object]) -> None:
        """
        Wait while the file is there, for a bounded time.

        :param update: when that began: who asks again on the same one is not given more time.
        :param report: told once what is waited for, if it has to be.
        """
        if update != self._update:
            self._update = update
            self._deadline = self._clock.seconds() + MAX_WAIT
        reported = False
        while self._is_held():
            left = self._deadline - self._clock.seconds()
            if left <= 0:
                self._log.warn(
                    "{path} is still there after {minutes:.0f} minutes; the update goes on",
                    path=str(self._path),
                    minutes=MAX_WAIT / 60,
                )
                return
            if not reported:
                report(self._describe(left))
                reported = True
            await deferLater(self._clock, min(left, _POLL_INTERVAL))

    def _is_held(self) -> bool:
        # Links that lead nowhere and folders count; where nobody can look there is nothing.
        return os.path.lexists(self._path)

    def _describe(self, left: float) -> str:
        # A clock on the wall shows the minute that has begun.
        latest = time.strftime("%H:%M", time.localtime(self._now() + left + 59))
        return f"Waiting for a measurement to end; the update goes on by {latest} at the latest."
