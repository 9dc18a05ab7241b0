"""When to look for an update."""

from collections.abc import Callable
from math import inf

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from opq_twisted.box.config import UpdaterConfig
from opq_twisted.box.offers.long_poll import LongPoll
from opq_twisted.box.state.status import StatusBoard
from opq_twisted.box.update.updater import Updater
from opq_twisted.common.errors import (
    ClockBehind,
    OlderCopy,
    OpqError,
    ServerFailed,
    UpdateInProgress,
)

#: Seconds of the first pause after a failure; it doubles with each failure that follows.
_FIRST_BACKOFF = 30.0

#: Seconds, more or less, until it looks again while the box's clock stands in the past.
_UNTIL_CLOCK = 30.0

#: Seconds, more or less, until it looks again when the server's copy of the metadata was an old
#: one; the pauses after failures make it longer when that goes on.
_UNTIL_COPIED = 60.0

#: Seconds, more or less, until it looks when an update was under way at the time.
_UNTIL_AT_REST = 60.0

#: Seconds after a start, or a look, until it waits: a box that starts has other things to do first.
_BEFORE_WAITING = 2.0

#: Seconds over which the boxes of a fleet spread what all would do now, or their `spread` if that
#: is less.
SOON = 30.0

#: A server that has brought about so many looks is not waited at until the next scheduled one,
#: whatever it says.
_MOST_TOLD = 6


class Checker(Service):
    """
    Looks every so often, at times that boxes do not share, and installs what it finds if it may.

    The first look comes after 10 to 90 % of the interval, each later one after 80 to 120 %; sooner
    when the server tells of another release meanwhile, or the window opens. After failures it looks
    again after a random part of a pause that doubles up to the interval.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        config: UpdaterConfig,
        updater: Updater,
        announcements: LongPoll,
        board: StatusBoard,
        random: Callable[[], float],
        now: Callable[[], float],
        retry_after_left: Callable[[], float],
    ) -> None:
        """
        Prepare to look.

        :param random: gives numbers from 0 up to 1.
        :param now: the time of day, in seconds since the epoch.
        :param retry_after_left: seconds until the server may be asked again (Retry-After); the
            box does not look sooner.
        """
        self._clock = clock
        self._config = config
        self._updater = updater
        self._announcements = announcements
        self._board = board
        self._random = random
        self._now = now
        self._retry_after_left = retry_after_left
        self._failures = 0
        #: Whether the last look went well.
        self._well = True
        #: How many looks the server has brought about since the last scheduled one.
        self._told = 0
        #: The result of the last look that went well.
        self._found: str | None = None
        self._looking: Deferred[None] | None = None

    def startService(self) -> None:
        """Begin to look."""
        super().startService()
        self._looking = Deferred.fromCoroutine(self._look_for_ever())

    def stopService(self) -> None:
        """Look no more."""
        super().stopService()
        if self._looking is not None:
            self._looking.cancel()

    async def _look_for_ever(self) -> None:
        pause = self._config.check_every * (0.1 + 0.8 * self._random())
        try:
            # Whatever a cancelled request fails with, a stopped service looks no more.
            while self.running:
                await self._pause(pause)
                pause = await self._look()
        except CancelledError:
            return

    async def _pause(self, seconds: float) -> None:
        """Let a pause pass, which ends soon after the server has told of something new."""
        due = self._clock.seconds() + seconds
        self._board.publish(next_check=self._now() + seconds)
        told = False
        if self._well and self._told < _MOST_TOLD:
            pause = max(_BEFORE_WAITING + self._soon(), self._retry_after_left())
            await deferLater(self._clock, min(seconds, pause))
            try:
                told = await self._announcements.wait(due - self._clock.seconds())
            except CancelledError:
                raise
            except ServerFailed as error:
                self._log.debug("{error}", error=error)
            except Exception:
                self._log.failure("waiting for a release failed")
        if told:
            self._told += 1
        elif self._well:
            # A pause after a failure is short: to fail now and then must not buy a server more.
            self._told = 0
        left = due - self._clock.seconds()
        seconds = max(min(left, self._soon()) if told else left, self._retry_after_left())
        self._board.publish(next_check=self._now() + seconds)
        await deferLater(self._clock, max(0.0, seconds))

    def _soon(self) -> float:
        """Seconds after which a box asks that others may be about to ask as well."""
        return min(self._config.spread, SOON) * self._random()

    async def _look(self) -> float:
        """Look once; returns the seconds until the next look."""
        every = self._config.check_every
        self._well = False
        if not self._updater.stage.at_rest:
            # What the server has told of meanwhile must not wait for the next scheduled look.
            return min(every, _UNTIL_AT_REST * (0.5 + self._random()))
        try:
            await self._updater.check()
        except CancelledError:
            raise
        except ClockBehind as error:
            self._log.warn("{error}", error=error)
            return _UNTIL_CLOCK * (0.5 + self._random())
        except OlderCopy as error:
            self._log.warn("{error}", error=error)
            return max(self._backoff(), min(every, _UNTIL_COPIED * (0.5 + self._random())))
        except OpqError as error:
            self._log.warn("{error}", error=error)
            return self._backoff()
        except OSError as error:
            self._log.warn("The box's disk fails: {error}", error=error)
            return self._backoff()
        except Exception:
            # A loop that ends would leave the box without updates for ever.
            self._log.failure("looking for an update failed")
            return self._backoff()
        self._log_found(self._board.current.message)
        self._failures, self._well = 0, True
        pause = every * (0.8 + 0.4 * self._random())
        if self._config.install == "automatic" and self._updater.is_due:
            pause = min(pause, self._install_or_wait())
        return pause

    def _log_found(self, sentence: str) -> None:
        """Log the result of a look, once as long as it stays the same."""
        if sentence != self._found or self._failures:
            self._log.info("Looked for an update. {sentence}", sentence=sentence)
        self._found = sentence

    def _install_or_wait(self) -> float:
        """Begin to install, if the window is open; returns the seconds until one may look again."""
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
        """Seconds: a random part of the spread, which is over while the window is open."""
        spread, window = self._config.spread, self._config.window
        longest = spread if window is None else min(spread, window.until_closed(start))
        return longest * self._random()

    def _backoff(self) -> float:
        """Exponential, with full jitter."""
        longest = min(_FIRST_BACKOFF * 2.0**self._failures, self._config.check_every)
        self._failures = min(self._failures + 1, 16)
        return max(longest * self._random(), 1.0)
