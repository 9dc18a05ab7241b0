"""The stage of the journey as others see it: publish and subscribe."""

from collections.abc import Callable
from typing import Any

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from opq_twisted.box.state.journal import Attempt, Stage


@frozen
class Progress:
    """How far a download is: bytes, and bytes a second."""

    received: int
    total: int | None
    rate: float


@frozen
class Status:
    """What there is to know about the box; times are in seconds since the epoch."""

    #: The release that runs; None when nothing is known.
    installed: int | None = None
    #: The newest release that the update server offers; None before the first answer.
    available: int | None = None
    #: Whether that is one which the box would install.
    update_available: bool = False
    #: Its size in bytes, and what its makers say of it; None when nobody has said.
    size: int | None = None
    notes: str | None = None
    stage: Stage = Stage.IDLE
    progress: Progress | None = None
    #: What is going on, or what went wrong with the last check, in one sentence.
    message: str = ""
    #: Why the last check came to nothing; None when it went well.
    trouble: str | None = None
    #: Whether releases are installed without a signature.
    unsigned: bool = False
    last_check: float | None = None
    next_check: float | None = None
    last_attempt: Attempt | None = None
    #: Seconds that the last update took which went well.
    last_took: float | None = None


class StatusBoard:
    """Where the agent's parts write the status, and others read it."""

    _log = Logger()

    def __init__(self, status: Status) -> None:
        self.current = status
        self._observers: list[Callable[[Status], None]] = []

    def publish(self, **changes: Any) -> None:
        """Change the status, and tell everybody."""
        self.current = evolve(self.current, **changes)
        for observer in tuple(self._observers):
            with self._log.failuresHandled("{observer} failed", observer=observer):
                observer(self.current)

    def subscribe(self, observer: Callable[[Status], None]) -> Callable[[], None]:
        """Be told of each change; returns what ends that."""
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

    def wait_for(self, condition: Callable[[Status], bool]) -> Deferred[Status]:
        """Wait until the status meets a condition; the Deferred may be cancelled."""
        if condition(self.current):
            return succeed(self.current)

        def observe(status: Status) -> None:
            if condition(status):
                unsubscribe()
                met.callback(status)

        unsubscribe = self.subscribe(observe)
        met: Deferred[Status] = Deferred(lambda _: unsubscribe())
        return met
