"""
The records that the box keeps: attempts, blocked releases, and the journal's entry.

The names of their attributes are keys on disk and on the wire, and stay as they are.
"""

import secrets
from typing import TypedDict

from attrs import Factory, frozen

from opq_twisted.archive.release import Release
from opq_twisted.box.state.stages import Stage


def new_uuid() -> str:
    """Make the identifier of an attempt."""
    return secrets.token_hex(16)


@frozen
class Attempt:
    """One attempt to update; times are in seconds since the epoch."""

    version: int | None
    started: float
    ended: float
    #: `updated`, `returned` or `failed`.
    outcome: str
    reason: str
    #: Numbers the attempts of this box; 0: written by an agent that did not number them.
    id: int = 0
    #: Bytes of the archive, and how many of them were fetched; None if unknown.
    size: int | None = None
    fetched: int | None = None
    #: Identifies it in reports: 32 random hexadecimal digits. Empty: it began under an agent that
    #: did not report it, and is never reported.
    uuid: str = ""
    #: The release before it, to which the box returns; None if unknown.
    previous: int | None = None
    #: Whether it began without a click.
    automatic: bool = False
    #: The value of the last stage.
    stage: str = ""
    #: How often that stage was tried.
    tries: int = 0
    #: The value of a `report.codes.Reason`; empty for an update that succeeded.
    code: str = ""
    #: Whether the update server has stored it with its outcome.
    reported: bool = False

    @property
    def has_copied(self) -> bool:
        """Whether bytes of the archive were copied, because the box had them already."""
        return self.size is not None and self.fetched is not None and self.fetched < self.size


@frozen
class Blocked:
    """A release that is installed only after a click, and the reason."""

    version: int
    sha256: str | None
    reason: str


@frozen
class Postponement:
    """A release that was not installed, but is not to blame, and the time of the next attempt."""

    version: int
    sha256: str | None
    #: Seconds.
    pause: float
    #: The end of the pause, in seconds since the epoch.
    until: float
    #: The box's own fault; empty if the download was not the promised file.
    reason: str = ""
    #: The number of times in a row.
    count: int = 1
    #: Bytes that must be free under the prefix; as soon as they are, the pause does not matter.
    room: int = 0


@frozen
class Trial:
    """The release that runs and is healthy, but whose agent has not reached the server yet."""

    release: Release
    #: The last successful check of the agent before it, in seconds since the epoch; 0: unknown.
    looked_before: float
    #: Seconds for which it has run, over all boots.
    uptime: float = 0.0


#: Seconds; a stage that took longer waited for something, or the clock was set.
_MAX_DURATION = 3600.0


@frozen
class Timing:
    """The durations of the stages in seconds, by which the page estimates the rest of an update."""

    #: The time at which the current stage began, in seconds since the epoch.
    since: float = 0.0
    #: Those of the update that is under way, by the value of the stage.
    spent: dict[str, float] = Factory(dict)
    #: Those of the last updates that succeeded.
    last: dict[str, float] = Factory(dict)

    def enter(self, before: Stage, after: Stage, now: float) -> "Timing":
        """Count the time in `before`, unless the stage stays the same; `now` is the time of day."""
        if before is after:
            return self
        spent = {} if after is Stage.CHECKING else self._spent_with(before, now)
        return Timing(now, spent, self.last)

    def end(
        self, before: Stage, now: float, *, succeeded: bool, has_copied: bool = False
    ) -> "Timing":
        """
        Count the time in the last stage; keep the durations of an update that has succeeded.

        :param has_copied: as `Attempt.has_copied`; such a download says nothing about others.
        """
        spent = self._spent_with(before, now) if succeeded else {}
        if has_copied or Stage.VERIFYING not in spent:
            # The archive, or a part of it, was on the disk already.
            spent.pop(Stage.DOWNLOADING, None)
        return Timing(now, {}, {**self.last, **spent})

    def _spent_with(self, stage: Stage, now: float) -> dict[str, float]:
        took = max(0.0, now - self.since)
        if stage.at_rest or stage is Stage.CHECKING or took > _MAX_DURATION:
            return self.spent.copy()
        return {**self.spent, stage.value: self.spent.get(stage, 0.0) + took}


@frozen
class Entry:
    """Everything that the journal holds."""

    stage: Stage = Stage.IDLE
    release: Release | None = None
    started: float = 0.0
    #: The number of this box's attempt, counted from 1.
    attempt: int = 0
    #: As in `Attempt`, whose fields these two become.
    uuid: str = ""
    previous: int | None = None
    boot_id: str = ""
    tries: int = 0
    #: Whether the update began without a click.
    automatic: bool = False
    #: Whether the reboot was accepted, or the agent was stopped after it had asked for one.
    reboot_under_way: bool = False
    #: For a box that could not reboot or roll back by itself: the stage and the release with which
    #: the update is resumed after somebody reboots it. The next download clears both.
    after_reboot: Stage | None = None
    awaited: Release | None = None
    #: The time on the clock of this boot by which the new release must be healthy.
    deadline: float = 0.0
    #: Why the box rolls back: a sentence, and the code of the error.
    cause: str = ""
    code: str = ""
    attempts: tuple[Attempt, ...] = ()
    #: The blocked releases, the oldest first.
    refused: tuple[Blocked, ...] = ()
    #: The release that is postponed.
    delay: Postponement | None = None
    trial: Trial | None = None
    #: The release that was rolled back because its agent could not reach the server. None after the
    #: first check by the previous release's agent.
    doubted: Release | None = None
    #: The version of the last doubted release that was found not to blame.
    acquitted: int | None = None
    #: The time of a successful check, at most some hours ago, in seconds since the epoch.
    looked: float = 0.0
    timing: Timing = Timing()
    #: Bytes of the release's archive that were fetched in this attempt; None if unknown.
    fetched: int | None = None
    #: The release whose archive, joined from several sources, was not the promised file: nothing of
    #: it is copied from the last good archive any more.
    whole: Release | None = None
    #: The sequence number of the last report when this was written.
    seq: int = 0

    @property
    def transfer(self) -> tuple[int | None, int | None]:
        """The archive's size, and how many of its bytes were fetched, once this is known."""
        if self.release is None or self.fetched is None:
            return None, None
        return self.release.size, self.fetched


class EntryChanges(TypedDict, total=False):
    """Changes of an `Entry`, except for `boot_id` and `seq`, which each write sets."""

    stage: Stage
    release: Release | None
    started: float
    attempt: int
    uuid: str
    previous: int | None
    tries: int
    automatic: bool
    reboot_under_way: bool
    after_reboot: Stage | None
    awaited: Release | None
    deadline: float
    cause: str
    code: str
    attempts: tuple[Attempt, ...]
    refused: tuple[Blocked, ...]
    delay: Postponement | None
    trial: Trial | None
    doubted: Release | None
    acquitted: int | None
    looked: float
    timing: Timing
    fetched: int | None
    whole: Release | None
