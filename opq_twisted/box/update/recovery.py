"""Resumes, when the agent starts, the update that the journal contains."""

from collections.abc import Coroutine
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from opq_twisted.archive.release import Release
from opq_twisted.box.install.preflight import BOX_AT_FAULT
from opq_twisted.box.state.records import Attempt, new_uuid
from opq_twisted.box.state.stages import Stage
from opq_twisted.box.update.checker import Checker
from opq_twisted.box.update.dependencies import Dependencies
from opq_twisted.box.update.probation import Probation
from opq_twisted.box.update.reporting import Reporter, is_temporary
from opq_twisted.box.update.rollback import Rollback
from opq_twisted.box.update.workflow import Workflow
from opq_twisted.common.errors import (
    AgentUnfit,
    BoxUnfit,
    ClockBehind,
    FellOver,
    InstallFailed,
    InstallInterrupted,
    Interrupted,
    NoRoom,
    NotInstalled,
    RebootFailed,
    ServerFailed,
)
from opq_twisted.report.codes import Reason

#: How often a step of an update is tried, over all starts of the agent, before the update fails.
MAX_TRIES = 3

#: Seconds between the tries of an update that was interrupted: after a power cut, the agent starts
#: before the network is up and the clock is right.
_RETRY_DELAYS = (10.0, 20.0, 60.0, 300.0, 600.0)

#: If the agent is restarted again and again, the confirmation of a release fails this many seconds
#: after the deadline and the time to settle.
_MAX_CONFIRMATION = 1800.0


@frozen
class Recovery:
    """Resumes an update whose agent was interrupted, or has rebooted the box."""

    _log = Logger()

    _deps: Dependencies
    _reporter: Reporter
    _probation: Probation
    _checker: Checker
    _workflow: Workflow
    _rollback: Rollback

    def record_journal_loss(self) -> None:
        """If the journal was lost, record that as the first attempt of the new one."""
        trouble, now = self._deps.journal.trouble, self._deps.now()
        if not trouble:
            return
        attempt = Attempt(
            None,
            started=now,
            ended=now,
            outcome="failed",
            reason=trouble,
            uuid=new_uuid(),
            automatic=True,
            stage=Stage.IDLE.value,
            code=Reason.DISK.value,
        )
        with self._reporter.tolerate("The loss of the journal cannot be recorded"):
            self._reporter.record(Stage.IDLE, attempt)

    def find_update(self) -> Coroutine[Deferred[Any], Any, None] | None:
        """Return the update that must be resumed now; None if there is none."""
        journal = self._deps.journal
        if journal.entry.after_reboot is not None and not journal.same_boot:
            return self._resume_after_reboot()
        return None if self._reporter.stage.at_rest else self._resume()

    async def _resume(self) -> None:
        """Resume where an earlier agent was interrupted."""
        # Before the reactor runs, a signal, for example from a reboot, kills the agent at once.
        await deferLater(self._deps.clock, 0)
        entry = self._deps.journal.entry
        self._log.info("Resuming the update of an earlier agent: {stage}", stage=entry.stage)
        if entry.release is None or not entry.stage.may_be_live:
            await self._restart()
        else:
            await self.resume(entry.release)

    async def _resume_after_reboot(self) -> None:
        """Resume after somebody has rebooted a box that could not reboot or roll back by itself."""
        if await self._reporter.retry(self._enter_after_reboot):
            await self._resume()

    async def _enter_after_reboot(self) -> bool:
        deps, entry = self._deps, self._deps.journal.entry
        known = [each.version for each in (entry.awaited, deps.archives.last_good) if each]
        is_known = deps.installed.read() in (None, *known)
        if is_known and entry.after_reboot is not None:
            self._reporter.enter(
                entry.after_reboot,
                release=entry.awaited,
                # Another attempt: the outcome of the first one may have been reported.
                uuid=new_uuid(),
                # The first one has counted these bytes.
                fetched=None,
                tries=0,
                reboot_under_way=True,
                after_reboot=None,
                awaited=None,
            )
            return True
        # Somebody has installed another release by hand.
        self._reporter.enter(Stage.IDLE, after_reboot=None, awaited=None)
        deps.board.publish(message="")
        return False

    async def resume(self, release: Release) -> None:
        """Resume in a stage that must not be skipped, because the box may have been changed."""
        steps = {
            Stage.INSTALLING: self._resume_installing,
            Stage.REBOOTING: self._resume_rebooting,
            Stage.CONFIRMING: self._resume_confirming,
            Stage.ROLLING_BACK: self._rollback.resume,
        }

        async def step() -> None:
            if self._deps.rescued.read() in (None, release.version):
                await steps[self._reporter.stage](release)
            else:
                await self._rollback.finish_rescue(release)

        await self._reporter.retry(step)

    async def _restart(self) -> None:
        """Start over: nothing has been installed yet."""
        entry = self._deps.journal.entry
        automatic, tries = entry.automatic, entry.tries + 1
        if tries > MAX_TRIES:
            raise Interrupted(f"The update was interrupted {MAX_TRIES} times. Click to try again.")
        for delay in _RETRY_DELAYS:
            try:
                return await self._workflow.update(0.0, automatic, tries)
            except (ServerFailed, ClockBehind) as error:
                self._log.warn("{error}", error=error)
                await deferLater(self._deps.clock, delay)
        await self._workflow.update(0.0, automatic, tries)

    async def _resume_installing(self, release: Release) -> None:
        """Wait for the install script, which may have outlived the agent, and act on its result."""
        deps = self._deps
        status = await deps.installer.wait()
        has_rebooted = not deps.journal.same_boot
        in_place = deps.installed.read() == release.version
        if has_rebooted and (status == 0 or (status is None and in_place)):
            await self._confirm(release)
        elif status == 0:
            await self._workflow.reboot()
        elif status == BOX_AT_FAULT:
            raise deps.installer.box_at_fault()
        elif status is not None:
            error = InstallFailed(
                f"install_update.sh ended with exit status {status}. See {deps.config.log}."
            )
            await self._workflow.diagnose(release, error)
        else:
            await self._install_again(release, deps.journal.entry.tries + 1)

    async def _install_again(self, release: Release, tries: int) -> None:
        if tries > MAX_TRIES:
            raise InstallInterrupted(
                f"Release {release.version} was interrupted {MAX_TRIES} times. Click to try again."
            )
        # Count the try before the release is unpacked, because unpacking may interrupt the agent.
        self._reporter.enter(Stage.INSTALLING, tries=tries)
        try:
            await self._deps.preflight.require(release.version)
            archive = await self._deps.archives.open(release)
            await self._workflow.install(release, archive, tries)
        except (NoRoom, BoxUnfit, OSError) as error:
            if is_temporary(error):
                # This does not count as a try.
                self._deps.journal.write(tries=self._deps.journal.entry.tries - 1)
            raise

    async def _resume_rebooting(self, release: Release) -> None:
        """Confirm the release after the reboot, or ask for the reboot again."""
        tries = self._deps.journal.entry.tries
        if self._workflow.has_rebooted:
            await self._confirm(release)
        elif tries < MAX_TRIES:
            await self._workflow.reboot(tries + 1)
        else:
            raise RebootFailed(
                f"The box was asked {MAX_TRIES} times, and did not reboot. Do it by hand."
            )

    async def _resume_confirming(self, release: Release) -> None:
        """Confirm again; a release fails if it ends the agent or reboots the box each time."""
        entry, now = self._deps.journal.entry, self._deps.clock.seconds()
        if self._deps.journal.same_boot:
            # A release that was healthy by the deadline may still need its time to settle, and
            # agents may start slowly.
            end = entry.deadline + self._deps.config.settle + _MAX_CONFIRMATION
            if now > end:
                raise AgentUnfit(
                    f"Release {release.version} was not confirmed: its agent was started again "
                    "and again."
                )
            await self._confirm(release, entry.tries, entry.deadline)
        elif entry.tries < MAX_TRIES:
            await self._confirm(release, entry.tries + 1)
        else:
            raise FellOver(
                f"The box restarted {MAX_TRIES} times while it confirmed release {release.version}."
            )

    async def _confirm(
        self, release: Release, tries: int = 1, deadline: float | None = None
    ) -> None:
        """Keep the new release if it runs and is healthy by `deadline`; None for a new deadline."""
        deps = self._deps
        if deadline is None:
            deadline = self._new_deadline()
        self._reporter.enter(Stage.CONFIRMING, tries=tries, deadline=deadline)
        # An error while reading is not the release's fault.
        installed = deps.installed.read()
        self._reporter.show_running(installed)
        if installed != release.version:
            raise NotInstalled(
                f"After the reboot the box runs {installed or 'an unknown release'}, "
                f"not {release.version}. See {deps.config.log}."
            )
        await self._require_healthy(release, deadline)
        with self._reporter.tolerate("The release cannot be made the last good one"):
            await self._probation.begin(release, deps.journal.entry.started)
        # The newest release that this agent knows of, until a check succeeds.
        deps.board.publish(available=installed)
        # Check before the end is recorded: an agent that dies in a check must not be confirmed.
        await self._checker.try_to_check()
        reason = f"The box runs release {installed}."
        if self._probation.trial is not None:
            reason += " Its agent has not reached the update server yet."
        await self._reporter.finish("updated", reason)

    async def _require_healthy(self, release: Release, deadline: float) -> None:
        """Check the release; if the box itself fails or is too busy, extend the deadline first."""
        deps = self._deps
        try:
            await deps.health.require(deps.unpacker.folder, release.version, deadline)
        except OSError:
            await self._reporter.retry(self._extend_deadline)
            raise
        except InstallFailed:
            try:
                await deps.preflight.require_running(release.version)
            except BoxUnfit:
                await self._reporter.retry(self._extend_deadline)
                raise
            raise

    async def _extend_deadline(self) -> None:
        self._deps.journal.write(deadline=self._new_deadline())

    def _new_deadline(self) -> float:
        return self._deps.clock.seconds() + self._deps.config.confirm_timeout
