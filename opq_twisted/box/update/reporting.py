"""Records each stage of an update, and publishes it."""

import errno
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, Unpack

from attrs import evolve
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from opq_twisted.archive.release import Release
from opq_twisted.box.state.records import Attempt, EntryChanges
from opq_twisted.box.state.stages import RESUMPTIONS, TRANSITIONS, Stage
from opq_twisted.box.state.status import StatusChanges
from opq_twisted.box.update.dependencies import Dependencies
from opq_twisted.box.update.probation import Probation
from opq_twisted.common import wording
from opq_twisted.common.errors import (
    MACHINE_BUSY,
    ArchiveRefused,
    BoxAtFault,
    BoxUnfit,
    InstallFailed,
    NoRoom,
    NotStarted,
    OpqError,
    RebootFailed,
    RollbackFailed,
)
from opq_twisted.report.codes import Reason

_log = Logger()

_T = TypeVar("_T")

#: Seconds before a step is retried that failed because of the box's disk.
_RETRY_DELAY = 60.0

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

#: The release is to blame: it is blocked.
RELEASE_AT_FAULT = (ArchiveRefused, InstallFailed)

#: The box is to blame: the release is postponed.
BOX_AT_FAULT = (BoxAtFault, BoxUnfit, NotStarted)

#: The update is resumed when somebody reboots the box.
RESUMED_AFTER_REBOOT = (RebootFailed, RollbackFailed)


def is_temporary(error: Exception) -> bool:
    """Whether the box only lacks something for a time, which is not the release's fault."""
    if isinstance(error, OSError):
        return error.errno in (*_DISK_FULL, *MACHINE_BUSY)
    return isinstance(error, (NoRoom, BoxUnfit))


def code_of(error: Exception) -> str:
    """Return the value of a `report.codes.Reason` for the error that ended an attempt."""
    if isinstance(error, OSError):
        if error.errno in _DISK_FULL:
            return NoRoom.code
        return Reason.BUSY.value if error.errno in MACHINE_BUSY else Reason.DISK.value
    return error.code if isinstance(error, OpqError) else OpqError.code


class TransitionError(Exception):
    """A stage was entered from one that it may not follow."""


def check_transition(before: Stage, after: Stage) -> None:
    """
    Log an error if `after` may not follow `before`.

    On a box the update continues, because a mistake in the tables must not strand it. A test
    fails, because trial counts such a log event as an error.
    """
    if after not in TRANSITIONS[before] | RESUMPTIONS[before]:
        error = TransitionError(f"The stage {after} may not follow {before}.")
        _log.failure("The update goes on, but its stages are wrong", Failure(error))


class Reporter:
    """Enters the stages of an update: in the journal first, and then on the status board."""

    _log = Logger()

    def __init__(
        self, deps: Dependencies, probation: Probation, is_running: Callable[[], bool]
    ) -> None:
        """:param is_running: false while the agent is stopped; an update does not fail by that."""
        self._deps = deps
        self._probation = probation
        self.is_running = is_running
        #: The stage that is shown. The journal may have an older one while an update ends, and
        #: afterwards if the end cannot be recorded.
        self.stage = deps.journal.entry.stage
        self._timing = deps.journal.entry.timing
        deps.installer.when_busy = lambda error: deps.board.publish(message=self.explain(error))

    def show_all(self) -> None:
        """Publish everything that an agent knows at its start."""
        deps, entry = self._deps, self._deps.journal.entry
        last = entry.attempts[-1] if entry.attempts else None
        self.stage, self._timing = entry.stage, entry.timing
        deps.board.publish(
            unsigned=deps.offers.unsigned,
            last_attempt=last,
            last_took=deps.journal.last_took,
            stage=self.stage,
            stage_since=self._timing.since or None,
            stage_took=self._timing.last,
            message=self._describe(self.stage) or (last.reason if last else ""),
        )
        self.show_running(deps.installed.version)
        self._show_newest(last)

    def show_running(self, version: int | None) -> None:
        """Publish the release that runs."""
        self._deps.installed.running = version
        self._deps.board.publish(installed=version)

    def enter(self, stage: Stage, /, **changes: Unpack[EntryChanges]) -> None:
        """
        Write the next stage to the journal, and only then show it.

        :param changes: other changes of the journal, made by the same write.
        :raises OSError: if it cannot be written: the stage must not begin.
        """
        check_transition(self.stage, stage)
        changes["stage"] = stage
        changes["timing"] = timing = self._timing.enter(self.stage, stage, self._deps.now())
        self._deps.journal.write(**changes)
        self._timing = timing
        self._show(StatusChanges(stage=stage, message=self._describe(stage)))

    def leave_out(self, waited: float) -> None:
        """Do not count these seconds of the stage: the update waited for something else."""
        since = self._timing.since + max(0.0, waited)
        self._timing = evolve(self._timing, since=since)
        self._deps.board.publish(stage_since=since)

    def record(self, stage: Stage, attempt: Attempt, /, **changes: Unpack[EntryChanges]) -> None:
        """Record the end of an attempt; parameters and errors are those of `Journal.end`."""
        check_transition(self.stage, stage)
        succeeded = attempt.outcome == "updated"
        timing = self._timing.end(
            self.stage, self._deps.now(), succeeded=succeeded, has_copied=attempt.has_copied
        )
        changes["timing"] = timing
        self._deps.journal.end(stage, attempt, **changes)
        self._timing = timing
        self._deps.reports.attempt_ended()

    async def finish(self, outcome: str, reason: str, code: str = "") -> None:
        """Record the end of an update on a good release, and remove its files."""
        attempt = self._record_end(Stage.IDLE, outcome, reason, code)
        # Not earlier: until the end is recorded, a restarted agent needs these files.
        with self.tolerate("Files that are not needed any more cannot be removed"):
            await self._deps.unpacker.clear()
            self._deps.archives.prune(self._deps.installed.version)
        self._show_end(Stage.IDLE, attempt)

    def fail(self, error: Exception) -> None:
        """Record that the update has failed, and block or postpone its release."""
        reason = self.explain(error)
        self._log.error("The update failed: {reason}", reason=reason)
        entry = self._deps.journal.entry
        if entry.release is not None and isinstance(error, RELEASE_AT_FAULT):
            with self.tolerate("The blocked release cannot be recorded"):
                self._deps.journal.block(entry.release, reason)
        if entry.release is not None and isinstance(error, BOX_AT_FAULT):
            with self.tolerate("The pause until the next try cannot be recorded"):
                self.postpone(entry.release, reason, error)
        changes = EntryChanges()
        if isinstance(error, RESUMED_AFTER_REBOOT):
            changes |= {"after_reboot": entry.stage, "awaited": entry.release}
        attempt = self._record_end(Stage.FAILED, "failed", reason, code_of(error), **changes)
        self._show_end(Stage.FAILED, attempt)

    def postpone(self, release: Release, reason: str, error: Exception) -> None:
        """Let the box try again by itself, after a pause or with room: see `Journal.postpone`."""
        room = error.room if isinstance(error, BoxUnfit) else 0
        deps = self._deps
        deps.journal.postpone(release, deps.now(), reason, room, deps.config.check_every)

    async def retry(self, step: Callable[[], Awaitable[_T]]) -> _T:
        """
        Retry `step` until the disk works and has room.

        For steps that must not be skipped once the box has been changed.
        """
        while True:
            try:
                return await step()
            except (NoRoom, BoxUnfit, OSError) as error:
                self._log.error("{error}", error=error)
                self._deps.board.publish(message=self.explain(error))
            await deferLater(self._deps.clock, _RETRY_DELAY)

    @contextmanager
    def tolerate(self, sentence: str) -> Iterator[None]:
        """Log the error of a useful but dispensable step, and continue."""
        try:
            yield
        except (OpqError, OSError) as error:
            self._log.error("{sentence}: {why}", sentence=sentence, why=self.explain(error))

    def explain(self, error: Exception) -> str:
        """Return a sentence for the owner; log the traceback of an unexpected error."""
        if isinstance(error, OpqError):
            return str(error)
        if isinstance(error, OSError):
            if error.errno in _DISK_FULL:
                return "The box's disk is full. Make room, and try again."
            if error.errno in MACHINE_BUSY:
                return f"The box has too much to do: {error.strerror}. Try again later."
            return f"The box's disk fails: {error.strerror or error}."
        self._log.failure("The update failed with an unforeseen error", Failure(error))
        return "The agent failed; its log says how."

    def _record_end(
        self,
        stage: Stage,
        outcome: str,
        reason: str,
        code: str,
        /,
        **changes: Unpack[EntryChanges],
    ) -> Attempt:
        entry = self._deps.journal.entry
        size, fetched = entry.transfer
        attempt = Attempt(
            version=None if entry.release is None else entry.release.version,
            started=entry.started,
            ended=self._deps.now(),
            outcome=outcome,
            reason=reason,
            id=entry.attempt,
            size=size,
            fetched=fetched,
            uuid=entry.uuid,
            previous=entry.previous,
            automatic=entry.automatic,
            stage=entry.stage.value,
            tries=entry.tries,
            code=code,
        )
        if fetched is not None:
            self._log.info("The update fetched {words}", words=wording.part_of(fetched, size))
        changes["trial"] = self._probation.trial_of(self._deps.installed.version)
        with self.tolerate("The end of the update cannot be recorded"):
            self.record(stage, attempt, **changes)
        return attempt

    def _show_end(self, stage: Stage, attempt: Attempt) -> None:
        changes = StatusChanges(stage=stage, message=attempt.reason, last_attempt=attempt)
        changes["last_took"] = self._deps.journal.last_took
        self._show(changes)
        self._show_newest(attempt)

    def _show_newest(self, last: Attempt | None) -> None:
        """Show the release of the last update as the newest one, until the server is asked."""
        board = self._deps.board
        if last is None or last.outcome != "updated" or board.current.available is not None:
            return
        if last.version == board.current.installed:
            board.publish(available=last.version)

    def _show(self, changes: StatusChanges) -> None:
        self.stage = changes["stage"]
        self._log.info("Stage: {stage}", stage=self.stage)
        if not changes["message"]:
            del changes["message"]
        changes |= {"progress": None, "stage_since": self._timing.since}
        changes["stage_took"] = self._timing.last
        self._deps.board.publish(**changes)

    def _describe(self, stage: Stage) -> str:
        """Return the message of a stage; empty at rest."""
        if stage is Stage.ROLLING_BACK:
            return f"{stage.message} {self._deps.journal.entry.cause}"
        return stage.message
