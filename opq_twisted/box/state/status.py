"""The status that the page and the command line show: publish and subscribe."""

from collections.abc import Callable, Mapping
from typing import TypedDict, Unpack

from attrs import Factory, evolve, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from opq_twisted.box.state.records import Attempt
from opq_twisted.box.state.stages import Stage


@frozen
class Progress:
    """The progress of a download: bytes to fetch, and bytes per second."""

    received: int
    total: int | None
    rate: float
    #: Bytes of the archive that are not fetched, because the last good archive has them.
    here: int = 0


@frozen
class Status:
    """Everything that the box publishes about itself; times are in seconds since the epoch."""

    #: The name of the box for people, and its number in the configuration; 0: it has none.
    name: str = ""
    box_id: int = 0
    #: The release that runs; None if unknown.
    installed: int | None = None
    #: The newest release that the update server offers; None before the first answer.
    available: int | None = None
    #: Whether the box would install `available`, after a click or by itself.
    update_available: bool = False
    #: Whether the server's pace lets no box install `available` without a click.
    held: bool = False
    #: The size of `available` in bytes, and its release notes; None if unknown.
    size: int | None = None
    notes: str | None = None
    stage: Stage = Stage.IDLE
    #: The time at which the stage began; None if unknown.
    stage_since: float | None = None
    #: Seconds that each stage took in the last successful update, by the value of the stage.
    stage_took: Mapping[str, float] = Factory(dict)
    progress: Progress | None = None
    #: One sentence: the current activity, or the result of the last one.
    message: str = ""
    #: Why the last check failed; None if it succeeded.
    trouble: str | None = None
    #: Whether releases are installed without a signature.
    unsigned: bool = False
    last_check: float | None = None
    next_check: float | None = None
    last_attempt: Attempt | None = None
    #: Seconds that the last successful update took.
    last_took: float | None = None
    #: The fingerprint of the key that signs the box's reports; None: it sends no reports.
    fingerprint: str | None = None
    #: The time of the last report since the agent's start, and its answer in a sentence.
    last_report: float | None = None
    report_answer: str = ""


class StatusChanges(TypedDict, total=False):
    """Changes of a `Status`."""

    name: str
    box_id: int
    installed: int | None
    available: int | None
    update_available: bool
    held: bool
    size: int | None
    notes: str | None
    stage: Stage
    stage_since: float | None
    stage_took: Mapping[str, float]
    progress: Progress | None
    message: str
    trouble: str | None
    unsigned: bool
    last_check: float | None
    next_check: float | None
    last_attempt: Attempt | None
    last_took: float | None
    fingerprint: str | None
    last_report: float | None
    report_answer: str


class StatusBoard:
    """Publishes the status. It is written to, and shown to people; no decision depends on it."""

    _log = Logger()

    def __init__(self, status: Status) -> None:
        self.current = status
        self._observers: list[Callable[[Status], None]] = []

    def publish(self, **changes: Unpack[StatusChanges]) -> None:
        """Change the status, and notify every observer."""
        self.current = evolve(self.current, **changes)
        for observer in tuple(self._observers):
            with self._log.failuresHandled("{observer} failed", observer=observer):
                observer(self.current)

    def subscribe(self, observer: Callable[[Status], None]) -> Callable[[], None]:
        """Call the observer with each new status; returns a function that ends this."""
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
