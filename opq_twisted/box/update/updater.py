"""The service that updates the box: start, stop, check, begin, unblock, history."""

from collections.abc import Coroutine
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall

from opq_twisted.box.state.records import Attempt, Blocked
from opq_twisted.box.state.stages import Stage
from opq_twisted.box.update.checker import Checker
from opq_twisted.box.update.dependencies import Dependencies
from opq_twisted.box.update.probation import COUNT_INTERVAL, Probation
from opq_twisted.box.update.recovery import Recovery
from opq_twisted.box.update.reporting import RESUMED_AFTER_REBOOT, Reporter
from opq_twisted.box.update.rollback import Rollback
from opq_twisted.box.update.workflow import Workflow
from opq_twisted.common.errors import UpdateInProgress
from opq_twisted.report.codes import Waiting


class Updater(Service):
    """
    Updates the box to the newest release; one update at a time.

    `Workflow` has the steps of an update. If one of them fails, `Rollback` restores the last good
    release if needed. `Recovery` resumes the update after a reboot or an interruption, at the step
    that the journal names.
    """

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._probation = probation = Probation(deps.journal, deps.archives, deps.installer)
        self._reporter = reporter = Reporter(deps, probation, lambda: bool(self.running))
        self._checker = checker = Checker(deps, reporter, probation)
        self._workflow = workflow = Workflow(deps, reporter, checker)
        self._rollback = rollback = Rollback(deps, reporter, probation, workflow)
        self._recovery = Recovery(deps, reporter, probation, checker, workflow, rollback)
        self._update: Deferred[None] | None = None
        self._counting = LoopingCall(self._count_and_end_trial)
        self._counting.clock = deps.clock
        #: The time on the reactor's clock until which the uptime has been counted.
        self._counted = deps.clock.seconds()

    def startService(self) -> None:
        """Resume the update that the journal contains."""
        super().startService()
        self._recovery.record_journal_loss()
        if self.stage.at_rest:
            with self._reporter.tolerate("The end of a trial cannot be recorded"):
                self._rollback.end_lost_trial()
        self._reporter.show_all()
        self._count_trial()
        update = self._recovery.find_update()
        if update is not None:
            self._start(update)

    def stopService(self) -> Deferred[None] | None:
        """Interrupt the update; a script that runs continues."""
        super().stopService()
        if self._counting.running:
            self._counting.stop()
            with self._reporter.tolerate("The uptime of the release cannot be recorded"):
                self._count()
        if self._workflow.reboot_awaited or self.stage is Stage.REBOOTING:
            with self._reporter.tolerate("The reboot cannot be recorded"):
                self._deps.journal.write(reboot_under_way=True)
        if self._update is not None:
            self._update.cancel()
        self._checker.stop()
        return self._update

    def check(self) -> Deferred[int | None]:
        """Ask for the newest release; see `Checker.check`."""
        return self._checker.check()

    def begin(self, delay: float = 0.0, automatic: bool = False) -> None:
        """
        Begin an update to the newest release.

        :param delay: seconds to wait between the check and the download.
        :param automatic: whether it begins without a click; then a blocked release stays blocked.
        :raises UpdateInProgress: if an update is under way.
        """
        if self._update is not None:
            raise UpdateInProgress(f"An update is under way already: {self.stage}.")
        self._start(self._workflow.update(delay, automatic))

    def unblock(self, version: int) -> bool:
        """Let a blocked release be installed without a click; see `Journal.unblock`."""
        was_blocked = self._deps.journal.unblock(version)
        if was_blocked and self.stage.at_rest and self._checker.offer is not None:
            self._deps.board.publish(message=self._deps.policy.describe(self._checker.offer))
        return was_blocked

    @property
    def history(self) -> tuple[tuple[Attempt, ...], tuple[Blocked, ...]]:
        """The last attempts, the oldest first, and the blocked releases."""
        return self._deps.journal.entry.attempts, self._deps.journal.entry.refused

    @property
    def stage(self) -> Stage:
        """The stage now."""
        return self._reporter.stage

    @property
    def is_due(self) -> bool:
        """Whether the release that was offered last is to be installed without a click."""
        return self._checker.is_due

    @property
    def waiting(self) -> Waiting | None:
        """What the box waits for; None if it is up to date, or installs a release."""
        return self._checker.waiting

    def _start(self, update: Coroutine[Deferred[Any], Any, None]) -> None:
        """Run an update: its result is recorded, and the next one may begin."""

        async def run() -> None:
            try:
                await update
            except Exception as error:
                # If the agent stops, the journal says where to resume.
                if self.running:
                    await self._abort(error)
            finally:
                self._update = None
                if self.running:
                    self._count_trial()

        self._update = Deferred()
        running = Deferred.fromCoroutine(run())
        self._update = None if running.called else running

    async def _abort(self, error: Exception) -> None:
        """Roll back if the box may have been changed; otherwise fail."""
        try:
            release = await self._rollback.begin_if_needed(error)
            if release is not None:
                return await self._recovery.resume(release)
        except Exception as failure:
            if not self.running:
                return
            error = failure
        if not isinstance(error, RESUMED_AFTER_REBOOT):
            try:
                with self._reporter.tolerate("The unpacked files cannot be removed"):
                    await self._deps.unpacker.clear()
            except CancelledError:
                return
        self._reporter.fail(error)

    def _count_trial(self) -> None:
        """Count the uptime of the release that runs, if its trial is not over."""
        if self._probation.trial is not None and not self._counting.running:
            self._counted = self._deps.clock.seconds()
            self._counting.start(COUNT_INTERVAL, now=False)

    def _count_and_end_trial(self) -> None:
        if self._probation.trial is None:
            self._counting.stop()
            return
        with self._reporter.tolerate("The uptime of the release cannot be recorded"):
            is_over = self._count()
            if is_over and self._update is None and self.stage.at_rest:
                self._start(self._end_trial())

    def _count(self) -> bool:
        before, self._counted = self._counted, self._deps.clock.seconds()
        return self._probation.count(self._counted - before)

    async def _end_trial(self) -> None:
        """Leave a release whose agent cannot reach the update server, if a last check fails."""
        await self._checker.try_to_check()
        release = await self._rollback.begin_after_trial()
        if release is not None:
            await self._recovery.resume(release)
