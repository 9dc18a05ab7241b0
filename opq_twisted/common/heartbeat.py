"""Repeats a job for as long as a service runs, one run after the other."""

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger


class Heartbeat(Service):
    """Runs a job, waits for its end, pauses, and runs it again, even if it failed."""

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        job: Callable[[], Coroutine[Deferred[Any], Any, object]],
        pause: Callable[[], float],
    ) -> None:
        """
        :param pause: returns the seconds until the next run; it is called at the start and after
            each run.
        """
        self._clock = clock
        self._job = job
        self._pause = pause
        self._next: IDelayedCall | None = None
        self._is_due = False

    def startService(self) -> None:
        """Schedule the first run."""
        super().startService()
        self._schedule()

    def stopService(self) -> Deferred[None] | None:
        """Schedule no more runs; the current one is completed."""
        super().stopService()
        if self._next is not None and self._next.active():
            self._next.cancel()
        return None

    def run_now(self) -> None:
        """Run the job in the next turn of the reactor, or directly after the current run."""
        if self._next is not None and self._next.active():
            self._next.reset(0)
        else:
            self._is_due = True

    def _schedule(self) -> None:
        pause = 0 if self._is_due else self._pause()
        self._is_due = False
        self._next = self._clock.callLater(pause, lambda: Deferred.fromCoroutine(self._run()))

    async def _run(self) -> None:
        with self._log.failuresHandled("{job} failed", job=self._job.__qualname__):
            await self._job()
        if self.running:
            self._schedule()
