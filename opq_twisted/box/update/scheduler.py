"""Decides when the box checks for an update, and when it installs one without a click."""

from collections.abc import Callable
from math import inf

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from opq_twisted.box.offers.long_poll import LongPoll
from opq_twisted.box.update.dependencies import Dependencies
from opq_twisted.box.update.updater import Updater
from opq_twisted.common.backoff import doubling
from opq_twisted.common.errors import (
    ClockBehind,
    OlderCopy,
    OpqError,
    ServerFailed,
    UpdateInProgress,
)

#: Seconds of the first pause after a failure; it doubles with each failure that follows.
_FIRST_BACKOFF = 30.0

#: Seconds, more or less, until the next check while the box's clock is behind.
_CLOCK_DELAY = 30.0

#: Seconds, more or less, until the next check if the server's copy of the metadata is an older one;
#: the back-off makes it longer if that continues.
_OLDER_COPY_DELAY = 60.0

#: Seconds, more or less, until the next check if an update was under way.
_BUSY_DELAY = 60.0

#: Seconds: the first check comes after 10 to 90 % of this time, or of a shorter interval.
_FIRST_INTERVAL = 120.0

#: Seconds after a start, or a check, until the long poll: a box that starts has other things to do.
_LONG_POLL_DELAY = 2.0

#: Seconds over which the boxes of a fleet spread what they would all do now, or their `spread` if
#: that is less.
MAX_SPREAD = 30.0

#: After so many announced checks, the box does not long-poll until the next scheduled one, whatever
#: the server announces.
_MAX_ANNOUNCED = 6


class Scheduler(Service):
    """
    Checks now and then, at times that boxes do not share, and installs a release that is due.

    The first check comes within two minutes after a start, spread over them because a power cut
    starts all boxes of a town at once. Each later one comes after 80 to 120 % of the interval;
    sooner if the server announces another release, or the window opens. After a failure the next
    check comes after a random part of a pause that doubles up to the interval.
    """

    _log = Logger()

    def __init__(
        self,
        deps: Dependencies,
        updater: Updater,
        announcements: LongPoll,
        random: Callable[[], float],
        retry_after_left: Callable[[], float],
    ) -> None:
        """
        :param random: gives numbers from 0 up to 1.
        :param retry_after_left: seconds until the server may be asked again (Retry-After); the
            box does not check sooner.
        """
        self._clock = deps.clock
        self._now = deps.now
        self._config = deps.config
        self._board = deps.board
        self._updater = updater
        self._announcements = announcements
        self._random = random
        self._retry_after_left = retry_after_left
        #: Since the last successful check.
        self._failures = 0
        #: Whether the last check succeeded.
        self._succeeded = True
        #: Announced checks since the last scheduled one.
        self._announced = 0
        self._checking: Deferred[None] | None = None

    def startService(self) -> None:
        """Begin to check."""
        super().startService()
        self._checking = Deferred.fromCoroutine(self._check_for_ever())

    def stopService(self) -> None:
        """End the checks."""
        super().stopService()
        if self._checking is not None:
            self._checking.cancel()

    async def _check_for_ever(self) -> None:
        pause = min(self._config.check_every, _FIRST_INTERVAL) * (0.1 + 0.8 * self._random())
        try:
            # A cancelled request may fail with any error.
            while self.running:
                await self._pause(pause)
                pause = await self._check()
        except CancelledError:
            return

    async def _pause(self, seconds: float) -> None:
        """Let a pause pass; it ends soon after the server has announced another release."""
        due = self._clock.seconds() + seconds
        self._board.publish(next_check=self._now() + seconds)
        is_announced = False
        if self._succeeded and self._announced < _MAX_ANNOUNCED:
            pause = max(_LONG_POLL_DELAY + self._part_of_fleet_spread(), self._retry_after_left())
            await deferLater(self._clock, min(seconds, pause))
            try:
                is_announced = await self._announcements.wait(due - self._clock.seconds())
            except CancelledError:
                raise
            except ServerFailed as error:
                self._log.debug("{error}", error=error)
            except Exception:
                self._log.failure("the long poll failed")
        if is_announced:
            self._announced += 1
        elif self._succeeded:
            # Not after a failure: those pauses are short, and a server that fails now and then
            # could bring about any number of checks.
            self._announced = 0
        left = due - self._clock.seconds()
        if is_announced:
            left = min(left, self._part_of_fleet_spread())
        seconds = max(left, self._retry_after_left())
        self._board.publish(next_check=self._now() + seconds)
        await deferLater(self._clock, max(0.0, seconds))

    def _part_of_fleet_spread(self) -> float:
        """Seconds until the box asks, if others may be about to ask as well."""
        return min(self._config.spread, MAX_SPREAD) * self._random()

    async def _check(self) -> float:
        """Check once; returns the seconds until the next check."""
        every = self._config.check_every
        self._succeeded = False
        if not self._updater.stage.at_rest:
            # An announcement that came meanwhile must not wait for the next scheduled check.
            return min(every, self._jitter(_BUSY_DELAY))
        try:
            await self._updater.check()
        except CancelledError:
            raise
        except ClockBehind as error:
            self._log.warn("{error}", error=error)
            return self._jitter(_CLOCK_DELAY)
        except OlderCopy as error:
            self._log.warn("{error}", error=error)
            return max(self._back_off(), min(every, self._jitter(_OLDER_COPY_DELAY)))
        except OpqError as error:
            self._log.warn("{error}", error=error)
            return self._back_off()
        except OSError as error:
            self._log.warn("The box's disk fails: {error}", error=error)
            return self._back_off()
        except Exception:
            # If this loop ended, the box would get no updates any more.
            self._log.failure("the check failed")
            return self._back_off()
        self._failures, self._succeeded = 0, True
        pause = every * (0.8 + 0.4 * self._random())
        if self._config.install == "automatic" and self._updater.is_due:
            pause = min(pause, self._install_or_wait())
        return pause

    def _install_or_wait(self) -> float:
        """Begin an update if the window is open; returns the seconds until it opens otherwise."""
        now, window = self._now(), self._config.window
        if window is not None and not window.is_open(now):
            opens = window.until_open(now)
            return max(1.0, opens + self._part_of_spread(now + opens))
        try:
            self._updater.begin(delay=self._part_of_spread(now), automatic=True)
        except UpdateInProgress as error:
            self._log.info("{error}", error=error)
        return inf

    def _part_of_spread(self, start: float) -> float:
        """Return a random part, in seconds, of the spread, which ends before the window closes."""
        spread, window = self._config.spread, self._config.window
        longest = spread if window is None else min(spread, window.until_closed(start))
        return longest * self._random()

    def _jitter(self, seconds: float) -> float:
        return seconds * (0.5 + self._random())

    def _back_off(self) -> float:
        """Return the pause after one more failure, in seconds: exponential, with full jitter."""
        longest = doubling(_FIRST_BACKOFF, self._config.check_every, self._failures)
        self._failures += 1
        return max(longest * self._random(), 1.0)
