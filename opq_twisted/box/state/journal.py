"""Keeps the stage of an update on disk, so that a power cut only interrupts it."""

import contextlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar, Unpack

import cattrs
from attrs import evolve
from twisted.logger import Logger

from opq_twisted.archive.release import Release
from opq_twisted.box.state.records import (
    Attempt,
    Blocked,
    Entry,
    EntryChanges,
    Postponement,
    new_uuid,
)
from opq_twisted.box.state.stages import Stage
from opq_twisted.common import files
from opq_twisted.common.errors import MACHINE_BUSY, CannotStart

_T = TypeVar("_T")

#: The format of the file; a later agent may write another.
_FORMAT = 1

_MAX_SIZE = 1024 * 1024

#: How often the agent tries to read the file while the disk fails.
_READS = 3

_KEPT_ATTEMPTS = 20
_KEPT_BLOCKED = 100

#: Seconds; a longer duration is ignored, because the update waited or the clock was set.
_MAX_DURATION = 6 * 3600.0

#: Seconds.
_FIRST_PAUSE, _MAX_PAUSE = 3600.0, 24 * 3600.0

#: How often a box that was at fault tries the same release again without a click.
_MAX_POSTPONEMENTS = 10


class Journal:
    """
    Keeps the entry, in memory and on disk.

    A method that writes returns when the entry is on the disk. It raises OSError if that fails; the
    entry stays as it was then.
    """

    _log = Logger()

    def __init__(self, path: Path, boot_id: str) -> None:
        self._path = path
        self._boot_id = boot_id
        #: A sentence for the owner if the file was not understood; empty otherwise.
        self.trouble = ""
        self.entry = self._read()
        #: The sequence number of the last report. It is written only together with other changes:
        #: the update server tells a box that has forgotten it.
        self.seq = self.entry.seq

    @property
    def same_boot(self) -> bool:
        """Whether the entry was written since the machine started."""
        return self.entry.boot_id == self._boot_id

    def write(self, **changes: Unpack[EntryChanges]) -> None:
        """Change the entry."""
        entry = evolve(self.entry, boot_id=self._boot_id, seq=self.seq, **changes)
        content = {"format": _FORMAT, **cattrs.unstructure(entry)}
        # The rescue script, which has no Python, reads it line by line.
        files.write(self._path, json.dumps(content, indent=1).encode())
        self.entry = entry

    def next_attempt(self, now: float, previous: int | None) -> EntryChanges:
        """
        Return the changes of the write that begins another attempt.

        :param now: the time of day, in seconds since the epoch.
        :param previous: the release to which the box would return; None if unknown.
        """
        return {
            "attempt": self.entry.attempt + 1,
            "uuid": new_uuid(),
            "started": now,
            "previous": previous,
            "fetched": None,
        }

    def end(self, stage: Stage, attempt: Attempt, /, **changes: Unpack[EntryChanges]) -> None:
        """
        Record the end of an attempt.

        :param changes: other changes, made by the same write; the trial ends unless they have one.
        """
        attempts = (*self.entry.attempts, attempt)[-_KEPT_ATTEMPTS:]
        changes |= {"stage": stage, "release": None, "tries": 0, "attempts": attempts}
        changes.setdefault("trial", None)
        if attempt.outcome == "updated":
            changes["delay"] = None
        self.write(**changes)

    @property
    def has_unreported(self) -> bool:
        """Whether the server has not acknowledged the outcome of an attempt."""
        return any(each.uuid and not each.reported for each in self.entry.attempts)

    def acknowledge(self, uuids: Collection[str], seq: int) -> None:
        """
        Remember which attempts the update server has stored with their outcomes.

        Nothing is written if that is known already.

        :param seq: the sequence number of the report that had them.
        """
        self.seq = max(self.seq, seq)
        attempts = tuple(
            evolve(each, reported=each.reported or (bool(each.uuid) and each.uuid in uuids))
            for each in self.entry.attempts
        )
        if attempts != self.entry.attempts:
            self.write(attempts=attempts)

    def block(self, release: Release, reason: str) -> None:
        """Remember that a release must not be installed without a click."""
        self.write(refused=self.blocked_with(release, reason))

    def blocked_with(self, release: Release, reason: str) -> tuple[Blocked, ...]:
        """Return the blocked releases with one more, for a write that changes more than them."""
        others = [item for item in self.entry.refused if item.version != release.version]
        return (*others, Blocked(release.version, release.sha256, reason))[-_KEPT_BLOCKED:]

    def unblock(self, version: int) -> bool:
        """Forget that a release is blocked or postponed; returns whether it was."""
        entry = self.entry
        refused = tuple(item for item in entry.refused if item.version != version)
        delay = None if entry.delay and entry.delay.version == version else entry.delay
        if (refused, delay) == (entry.refused, entry.delay):
            return False
        self.write(refused=refused, delay=delay)
        return True

    @property
    def last_took(self) -> float | None:
        """Seconds that the last successful update took; None if there was none."""
        for attempt in reversed(self.entry.attempts):
            took = attempt.ended - attempt.started
            if attempt.outcome == "updated" and 0 < took < _MAX_DURATION:
                return took
        return None

    def find_blocked(self, release: Release) -> Blocked | None:
        """Find why a release is blocked; with another digest it is another release."""
        return next((item for item in self.entry.refused if _is_same(item, release)), None)

    def postpone(
        self,
        release: Release,
        now: float,
        reason: str = "",
        room: int = 0,
        first: float = _FIRST_PAUSE,
    ) -> None:
        """
        Install a release without a click only after a pause, which doubles each time.

        :param now: the time of day, in seconds since the epoch.
        :param reason: the box's own fault; empty if the download was not the promised file.
        :param room: bytes that must be free, if nothing else is missing.
        :param first: seconds of the first pause.
        """
        before, pause, count = self.entry.delay, first, 1
        if before is not None and _is_same(before, release) and bool(before.reason) == bool(reason):
            pause, count = min(2 * before.pause, _MAX_PAUSE), before.count + 1
        sha256 = release.sha256
        delay = Postponement(release.version, sha256, pause, now + pause, reason, count, room)
        self.write(delay=delay)

    def find_postponed(self, release: Release) -> Postponement | None:
        """Find why a release is postponed; None if it was not tried, or was to blame."""
        delay = self.entry.delay
        return delay if delay is not None and _is_same(delay, release) else None

    def must_be_whole(self, release: Release) -> bool:
        """Whether to copy nothing: joined from several sources, the release was the wrong file."""
        whole = self.entry.whole
        return whole is not None and _is_same(whole, release)

    def is_postponed(self, release: Release, now: float) -> bool:
        """Whether a release must not be fetched without a click yet."""
        delay = self.find_postponed(release)
        if delay is None or delay.room:
            return False
        if delay.reason and delay.count >= _MAX_POSTPONEMENTS:
            return True
        # A clock that was set back must not make the pause longer.
        return delay.until - delay.pause <= now < delay.until

    def _read(self) -> Entry:
        data = b""
        try:
            data = self._read_file()
            content = json.loads(data)
            if content.pop("format") != _FORMAT:
                raise ValueError("it was written by another version of the agent")
            return cattrs.structure(_convert_older(content), Entry)
        except FileNotFoundError:
            return Entry()
        except Exception as error:
            if isinstance(error, OSError) and error.errno in MACHINE_BUSY:
                # The file may be good, and the shortage will pass.
                raise CannotStart(f"Cannot read {self._path}: {error.strerror}.") from None
            # Whatever is wrong with the file, the agent must run.
            aside = self._path.with_suffix(".unreadable")
            self.trouble = (
                "The box's record of earlier updates was not understood: it may have forgotten "
                "what happened, and which releases were bad."
            )
            sentence = "The journal cannot be read and is set aside as {aside}: {error}"
            self._log.error(sentence, aside=aside, error=error)
            try:
                self._path.replace(aside)
            except OSError as reason:
                self._log.error("The journal cannot be set aside: {reason}", reason=reason)
            return _salvage(data)

    def _read_file(self) -> bytes:
        # A failing card may read well a moment later. Without its journal a box would not know
        # that it has to roll back.
        for _ in range(_READS - 1):
            with contextlib.suppress(OSError), self._path.open("rb") as file:
                return file.read(_MAX_SIZE)
        with self._path.open("rb") as file:
            return file.read(_MAX_SIZE)


def _salvage(data: bytes) -> Entry:
    """
    Keep the history and the blocked releases, as far as they can be read.

    The agent of a bad release may have written a file that the one before it does not understand.
    If that forgot which releases are blocked, it would install the bad one again and again. So the
    release that was under way is blocked, too.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return Entry()
    if not isinstance(content, dict):
        return Entry()
    refused = _legible(Blocked, content.get("refused"))
    if content.get("stage") in [stage.value for stage in Stage if stage.may_be_live]:
        reason = "It left a record of its update that the release before it cannot read."
        refused += [
            Blocked(release.version, release.sha256, reason)
            for release in _legible(Release, [_convert_older(content).get("release")])
        ]
    attempts = _legible(Attempt, content.get("attempts"))
    return Entry(
        attempt=max((attempt.id for attempt in attempts), default=0),
        attempts=tuple(attempts[-_KEPT_ATTEMPTS:]),
        refused=tuple(refused[-_KEPT_BLOCKED:]),
    )


def _legible(kind: type[_T], items: Any) -> list[_T]:
    legible = []
    for item in items if isinstance(items, list) else []:
        # cattrs raises many kinds of errors.
        with contextlib.suppress(Exception):
            legible.append(cattrs.structure(item, kind))
    return legible


def _is_same(known: Blocked | Postponement | Release, release: Release) -> bool:
    return known.version == release.version and (
        None in (known.sha256, release.sha256) or known.sha256 == release.sha256
    )


def _convert_older(content: dict[str, Any]) -> dict[str, Any]:
    """Convert the entry of an older agent, which knew one hash, or one release, only."""
    if content.get("after_reboot") and "awaited" not in content:
        content["awaited"] = content.pop("release", None)
    for release in (content.get("release"), content.get("awaited")):
        if isinstance(release, dict) and "sha256" in release:
            sha256 = release.pop("sha256")
            release["hashes"] = {} if sha256 is None else {"sha256": sha256}
    return content
