"""The stage of an update's journey on disk, so that a power cut is only a pause."""

import contextlib
import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import cattrs
from attrs import Factory, evolve, frozen
from twisted.logger import Logger

from opq_twisted.common import files
from opq_twisted.common.errors import MACHINE_BUSY, CannotStart

_T = TypeVar("_T")

#: The format of the file; a later agent may write another.
_FORMAT = 1

_MAX_SIZE = 1024 * 1024

#: How often a file that the disk does not give is asked for.
_READS = 3

_KEPT_ATTEMPTS = 20
_KEPT_REFUSALS = 100

#: Seconds; what took longer waited for somebody, or for a clock that was set.
_LONGEST_UPDATE = 6 * 3600.0

#: Seconds.
_FIRST_DELAY, _LONGEST_DELAY = 3600.0, 24 * 3600.0

#: How often a box that was at fault tries the same release again without a click.
_MOST_DELAYS = 10


class Stage(StrEnum):
    """Where the box is on its journey from one release to the next."""

    IDLE = "idle"
    CHECKING = "checking"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    UNPACKING = "unpacking"
    INSTALLING = "installing"
    REBOOTING = "rebooting"
    CONFIRMING = "confirming"
    RETURNING = "returning"
    FAILED = "failed"

    @property
    def at_rest(self) -> bool:
        """Whether no update is under way."""
        return self in (Stage.IDLE, Stage.FAILED)

    @property
    def may_be_live(self) -> bool:
        """Whether the release that is under way may be the live one."""
        return self in (Stage.INSTALLING, Stage.REBOOTING, Stage.CONFIRMING, Stage.RETURNING)

    @property
    def installs(self) -> bool:
        """Whether an installer may be at work."""
        return self in (Stage.INSTALLING, Stage.RETURNING)


@frozen
class Release:
    """One release, as it was offered or received."""

    version: int
    #: Bytes; None while nobody has said.
    size: int | None = None
    #: In lower-case hexadecimal, by the name that `hashlib` has for the algorithm.
    hashes: Mapping[str, str] = Factory(dict)

    @property
    def sha256(self) -> str | None:
        """In hexadecimal; None while nobody has said or computed it."""
        return self.hashes.get("sha256")


@frozen
class Attempt:
    """One update that was tried; times are in seconds since the epoch."""

    version: int | None
    started: float
    ended: float
    #: `updated`, `returned` or `failed`.
    outcome: str
    reason: str
    #: Counts the attempts of this box; 0: made by an agent that did not count.
    id: int = 0


@frozen
class Refusal:
    """A release that is not to be tried again by itself, and why."""

    version: int
    sha256: str | None
    reason: str


@frozen
class Delay:
    """A release that was not installed, though not to blame, and when it may be without a click."""

    version: int
    sha256: str | None
    #: Seconds; and the time of day when they are over.
    pause: float
    until: float
    #: What kept the box from installing it; empty when it came as something else.
    reason: str = ""
    #: How often that happened in a row.
    count: int = 1
    #: Bytes that must be free under the prefix: then it may be installed, whatever the time is.
    room: int = 0


@frozen
class Trial:
    """A release that runs and is healthy, and whose agent has not looked with success yet."""

    release: Release
    #: When the agent before it did, in seconds since the epoch; 0: nobody knows.
    looked_before: float
    #: Seconds for which it has run, over all boots.
    uptime: float = 0.0


@frozen
class Entry:
    """All that the journal holds."""

    stage: Stage = Stage.IDLE
    release: Release | None = None
    started: float = 0.0
    #: Which attempt of this box it is, beginning with 1.
    attempt: int = 0
    boot_id: str = ""
    tries: int = 0
    #: Whether it began without anybody's click.
    automatic: bool = False
    #: Whether the reboot was accepted, or the agent stopped in good order once it had asked.
    reboot_under_way: bool = False
    #: Where a box that failed to reboot, or to return, goes on when somebody reboots it by hand,
    #: and with which release; until the next one is fetched.
    after_reboot: Stage | None = None
    awaited: Release | None = None
    #: By the clock of this boot: when a new release must have begun to be healthy.
    deadline: float = 0.0
    #: Why the box returns to its last good release.
    cause: str = ""
    attempts: tuple[Attempt, ...] = ()
    refused: tuple[Refusal, ...] = ()
    delay: Delay | None = None
    trial: Trial | None = None
    #: What the box went back from as its agent could not look, until the one that runs has tried.
    doubted: Release | None = None
    #: The version of the last such release that was not to blame.
    acquitted: int | None = None
    #: The time of day of a successful look, some hours ago at most.
    looked: float = 0.0


class Journal:
    """Keeps the entry, in memory and on disk."""

    _log = Logger()

    def __init__(self, path: Path, boot_id: str) -> None:
        self._path = path
        self._boot_id = boot_id
        #: What an owner should know of how it was found; empty when that is nothing.
        self.trouble = ""
        #: What the journal says.
        self.entry = self._read()

    @property
    def same_boot(self) -> bool:
        """Whether the entry was written since the machine started."""
        return self.entry.boot_id == self._boot_id

    def write(self, **changes: Any) -> None:
        """
        Change the entry, and return when that is on the disk.

        :raises OSError: when it cannot be written; the entry is unchanged then.
        """
        entry = evolve(self.entry, boot_id=self._boot_id, **changes)
        content = {"format": _FORMAT, **cattrs.unstructure(entry)}
        # The rescue script, which has no Python, reads it line by line.
        files.write(self._path, json.dumps(content, indent=1).encode())
        self.entry = entry

    def end(
        self,
        stage: Stage,
        attempt: Attempt,
        after_reboot: Stage | None = None,
        trial: Trial | None = None,
    ) -> None:
        """
        Record how an attempt ended.

        :param after_reboot: where it goes on if the box is rebooted by hand.
        :param trial: the release that runs, if it has yet to prove itself.
        :raises OSError: when it cannot be written.
        """
        attempts = (*self.entry.attempts, attempt)[-_KEPT_ATTEMPTS:]
        goes_on = {"after_reboot": after_reboot, "awaited": self.entry.release}
        self.write(
            stage=stage,
            release=None,
            tries=0,
            attempts=attempts,
            trial=trial,
            **(goes_on if after_reboot else {}),
            **({"delay": None} if attempt.outcome == "updated" else {}),
        )

    def refuse(self, release: Release, reason: str, /, **changes: Any) -> None:
        """
        Remember a release that is not to be tried again by itself.

        :param changes: what else changes with that, in the same write.
        :raises OSError: when it cannot be written.
        """
        others = [item for item in self.entry.refused if item.version != release.version]
        refusal = Refusal(release.version, release.sha256, reason)
        self.write(refused=tuple([*others, refusal][-_KEPT_REFUSALS:]), **changes)

    def forgive(self, version: int) -> bool:
        """
        Forget that a release is refused, or put off; whether it was.

        :raises OSError: when it cannot be written.
        """
        entry = self.entry
        refused = tuple(item for item in entry.refused if item.version != version)
        delay = None if entry.delay and entry.delay.version == version else entry.delay
        if (refused, delay) == (entry.refused, entry.delay):
            return False
        self.write(refused=refused, delay=delay)
        return True

    @property
    def last_took(self) -> float | None:
        """Seconds that the last update took which went well; None when there was none."""
        took = [
            attempt.ended - attempt.started
            for attempt in self.entry.attempts
            if attempt.outcome == "updated"
            and 0 < attempt.ended - attempt.started < _LONGEST_UPDATE
        ]
        return took[-1] if took else None

    def refusal(self, release: Release) -> Refusal | None:
        """Find why a release is refused; one whose digest has changed is another release."""
        return next((item for item in self.entry.refused if _is_same(item, release)), None)

    def put_off(
        self,
        release: Release,
        now: float,
        reason: str = "",
        room: int = 0,
        first: float = _FIRST_DELAY,
    ) -> None:
        """
        Let some time pass, twice as much each time, until a release is tried again by itself.

        :param now: the time of day, in seconds since the epoch.
        :param reason: what kept the box from installing it; empty when it came as something else.
        :param room: bytes that have to be free, if that is all that it lacks.
        :param first: seconds that pass the first time.
        :raises OSError: when it cannot be written.
        """
        before, pause, count = self.entry.delay, first, 1
        if before is not None and _is_same(before, release) and bool(before.reason) == bool(reason):
            pause, count = min(2 * before.pause, _LONGEST_DELAY), before.count + 1
        delay = Delay(release.version, release.sha256, pause, now + pause, reason, count, room)
        self.write(delay=delay)

    def delay_of(self, release: Release) -> Delay | None:
        """Find why a release was not installed; None when it was not tried, or was to blame."""
        delay = self.entry.delay
        return delay if delay is not None and _is_same(delay, release) else None

    def is_put_off(self, release: Release, now: float) -> bool:
        """Whether a release is not yet to be fetched again by itself."""
        delay = self.delay_of(release)
        if delay is None or delay.room:
            return False
        if delay.reason and delay.count >= _MOST_DELAYS:
            return True
        # A clock that was set back must not make it longer.
        return delay.until - delay.pause <= now < delay.until

    def _read(self) -> Entry:
        data = b""
        try:
            data = self._read_file()
            content = json.loads(data)
            if content.pop("format") != _FORMAT:
                raise ValueError("it was written by another version of the agent")
            return cattrs.structure(_as_now(content), Entry)
        except FileNotFoundError:
            return Entry()
        except Exception as error:
            if isinstance(error, OSError) and error.errno in MACHINE_BUSY:
                # That says nothing about the journal, and goes by.
                raise CannotStart(f"Cannot read {self._path}: {error.strerror}.") from None
            # Whatever is wrong with it, it must not be the reason for a dead agent.
            aside = self._path.with_suffix(".unreadable")
            self.trouble = (
                "The box's record of earlier updates was not understood: it may have forgotten "
                "what happened, and which releases were bad."
            )
            self._log.error(
                "The journal cannot be read and is set aside as {aside}: {error}",
                aside=aside,
                error=error,
            )
            try:
                self._path.replace(aside)
            except OSError as reason:
                self._log.error("The journal cannot be set aside: {reason}", reason=reason)
            return _salvage(data)

    def _read_file(self) -> bytes:
        # A card that fails now may read well a moment later, and with the journal a box forgets
        # that it has to return.
        for _ in range(_READS - 1):
            with contextlib.suppress(OSError), self._path.open("rb") as file:
                return file.read(_MAX_SIZE)
        with self._path.open("rb") as file:
            return file.read(_MAX_SIZE)


def _salvage(data: bytes) -> Entry:
    """
    Keep the history and the refusals, as far as they can be read.

    The agent of a bad release may have written what the one before it does not understand: without
    them it would install that release again, and again. It is refused also when it was under way.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return Entry()
    if not isinstance(content, dict):
        return Entry()
    refused = _legible(Refusal, content.get("refused"))
    if content.get("stage") in [stage.value for stage in Stage if stage.may_be_live]:
        reason = "It left a record of its update that the release before it cannot read."
        refused += [
            Refusal(release.version, release.sha256, reason)
            for release in _legible(Release, [_as_now(content).get("release")])
        ]
    attempts = _legible(Attempt, content.get("attempts"))
    return Entry(
        attempt=max((attempt.id for attempt in attempts), default=0),
        attempts=tuple(attempts[-_KEPT_ATTEMPTS:]),
        refused=tuple(refused[-_KEPT_REFUSALS:]),
    )


def _legible(kind: type[_T], items: Any) -> list[_T]:
    legible = []
    for item in items if isinstance(items, list) else []:
        # Whatever it is that cattrs finds wrong with it.
        with contextlib.suppress(Exception):
            legible.append(cattrs.structure(item, kind))
    return legible


def _is_same(known: Refusal | Delay, release: Release) -> bool:
    return known.version == release.version and (
        None in (known.sha256, release.sha256) or known.sha256 == release.sha256
    )


def _as_now(content: dict[str, Any]) -> dict[str, Any]:
    """Read what an agent wrote that knew of one algorithm only, or of one release."""
    if content.get("after_reboot") and "awaited" not in content:
        content["awaited"] = content.pop("release", None)
    for release in (content.get("release"), content.get("awaited")):
        if isinstance(release, dict) and "sha256" in release:
            sha256 = release.pop("sha256")
            release["hashes"] = {} if sha256 is None else {"sha256": sha256}
    return content
