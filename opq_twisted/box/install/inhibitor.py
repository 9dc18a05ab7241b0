"""Postpones an installation while a measurement runs."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

#: Seconds that an update waits at most: a forgotten file must not prevent all updates.
MAX_WAIT = 3600.0

#: Seconds between two checks of the file.
_POLL_INTERVAL = 5.0


class Inhibitor:
    """Waits while a file exists, by which the box's other daemons forbid installations."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, path: Path, now: Callable[[], float]) -> None:
        """:param now: the time of day, in seconds since the epoch."""
        self._clock = clock
        self._path = path
        self._now = now
        self._update: float | None = None
        self._deadline = 0.0
        #: Whether an update waits now.
        self.is_waiting = False

    async def wait_until_released(self, update: float, report: Callable[[str], object]) -> None:
        """
        Wait until the file is gone, for at most `MAX_WAIT` since the first call of this update.

        :param update: the time at which the update started, which identifies it.
        :param report: is called once with a sentence, if the file exists.
        """
        if update != self._update:
            self._update = update
            self._deadline = self._clock.seconds() + MAX_WAIT
        try:
            await self._wait(report)
        finally:
            self.is_waiting = False

    async def _wait(self, report: Callable[[str], object]) -> None:
        while self._is_held():
            left = self._deadline - self._clock.seconds()
            if left <= 0:
                self._log.warn(
                    "{path} is still there after {minutes:.0f} minutes; the update goes on",
                    path=str(self._path),
                    minutes=MAX_WAIT / 60,
                )
                return
            if not self.is_waiting:
                self.is_waiting = True
                report(self._describe(left))
            await deferLater(self._clock, min(left, _POLL_INTERVAL))

    def _is_held(self) -> bool:
        # Any kind of file counts, even a dangling link, but not one in an unreadable folder.
        return os.path.lexists(self._path)

    def _describe(self, left: float) -> str:
        # Round up, because a clock shows the current minute and no seconds.
        latest = time.strftime("%H:%M %Z", time.localtime(self._now() + left + 59))
        return f"Waiting for a measurement to end; the update goes on by {latest} at the latest."
