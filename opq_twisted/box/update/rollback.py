"""Rolls the box back to its last good release."""

from attrs import frozen
from twisted.internet.task import deferLater
from twisted.logger import Logger

from opq_twisted.archive.release import Release
from opq_twisted.box.state.records import Attempt, EntryChanges, new_uuid
from opq_twisted.box.state.stages import Stage
from opq_twisted.box.update.dependencies import Dependencies
from opq_twisted.box.update.probation import MAX_UPTIME, Probation
from opq_twisted.box.update.reporting import (
    BOX_AT_FAULT,
    RELEASE_AT_FAULT,
    Reporter,
    code_of,
    is_temporary,
)
from opq_twisted.box.update.workflow import Workflow
from opq_twisted.common.errors import (
    AgentUnfit,
    BoxAtFault,
    BoxUnfit,
    DownloadFailed,
    InstallFailed,
    NoKnownGoodRelease,
    NotStarted,
    RollbackFailed,
)
from opq_twisted.report.codes import Reason

#: How often the last good release is installed, over all starts, before the rollback fails.
_MAX_TRIES = 3

#: Seconds after each failed installation.
_RETRY_DELAYS = (20.0, 60.0, 300.0)

#: The reason for a rollback that the rescue script has made.
_RESCUED = (
    "Its agent did not start, or made no progress, and the rescue script installed the last good "
    "release again."
)


@frozen
class Rollback:
    """Installs the last good release again, from its archive; nothing of the bad one is needed."""

    _log = Logger()

    _deps: Dependencies
    _reporter: Reporter
    _probation: Probation
    _workflow: Workflow

    async def begin_if_needed(self, error: Exception) -> Release | None:
        """
        Begin a rollback if a failed update may have changed the box, and the box can roll back.

        :returns: the release that the box leaves; None if it does not.
        """
        release = self._deps.journal.entry.release
        if release is None or not self._may_be_changed(error):
            return None
        if not await self._reporter.retry(self._has_last_good):
            return None
        return await self._begin(release, error, EntryChanges())

    async def begin_after_trial(self) -> Release | None:
        """
        Begin a rollback if the trial of a release has failed, and the box can roll back.

        :returns: the release that the box leaves; None if it does not.
        """
        deps = self._deps
        trial = self._probation.trial
        if trial is None:
            return None
        try:
            await deps.preflight.require(trial.release.version)
            await self._probation.require_rollback()
            good = deps.archives.last_good
        except (BoxUnfit, DownloadFailed, OSError) as obstacle:
            # The release keeps running and checking. In an incomplete rollback the box could only
            # wait for help.
            self._log.warn("{error}", error=obstacle)
            return None
        await deps.inhibitor.wait_until_released(
            deps.now(), lambda reason: deps.board.publish(message=reason)
        )
        deps.rescued.forget()
        error = AgentUnfit(
            f"Its agent did not reach the update server in {MAX_UPTIME / 86400:.0f} days, and the "
            "agent of the release before did."
        )
        changes = self._probation.end_by_rollback()
        previous = None if good is None else good.version
        changes |= deps.journal.next_attempt(deps.now(), previous)
        changes["automatic"] = True
        return await self._begin(trial.release, error, changes)

    def _may_be_changed(self, error: Exception) -> bool:
        """Whether the failed step may have changed the box."""
        entry = self._deps.journal.entry
        if entry.stage is Stage.INSTALLING:
            unchanged = isinstance(error, NotStarted) or (
                isinstance(error, BoxAtFault) and not error.touched
            )
            # An earlier try was interrupted at an unknown point.
            return entry.tries > 1 or not unchanged
        return entry.stage is Stage.CONFIRMING

    async def _has_last_good(self) -> bool:
        return self._deps.archives.last_good is not None

    async def _begin(self, release: Release, error: Exception, changes: EntryChanges) -> Release:
        cause = self._reporter.explain(error)
        self._log.error("The update failed: {cause}", cause=cause)
        changes |= {"release": release, "tries": 0, "reboot_under_way": False}
        changes |= {"cause": cause, "code": code_of(error)}

        async def begin() -> None:
            self._deps.installer.forget()
            if isinstance(error, RELEASE_AT_FAULT):
                changes["refused"] = self._deps.journal.blocked_with(release, cause)
            elif isinstance(error, BOX_AT_FAULT):
                self._reporter.postpone(release, cause, error)
            self._reporter.enter(Stage.ROLLING_BACK, **changes)

        await self._reporter.retry(begin)
        return release

    async def resume(self, release: Release) -> None:
        """
        Do the missing steps of a rollback: install the last good release, reboot, record the end.

        :param release: the one that the box leaves.
        :raises NoKnownGoodRelease: if there is no last good release any more.
        :raises RollbackFailed: if it cannot be installed.
        :raises RebootFailed: if the box does not reboot.
        :raises OSError: if the disk fails; the caller retries.
        """
        deps = self._deps
        while True:
            entry, good = deps.journal.entry, deps.archives.last_good
            if good is None:
                raise NoKnownGoodRelease(
                    f"{entry.cause} There is no last good release to return to."
                )
            status, is_last = await self._wait(), entry.tries >= _MAX_TRIES
            in_place = deps.installed.read() == good.version
            has_rebooted = self._workflow.has_rebooted
            if has_rebooted and in_place and (status == 0 or is_last):
                return await self._finish(release, entry.cause, entry.code)
            if status == 0 and not has_rebooted:
                return await self._workflow.ask_for_reboot()
            if is_last:
                raise RollbackFailed(
                    f"{entry.cause} The box could not return to release {good.version}. "
                    "Reboot it: then it tries again."
                )
            await self._install(good, entry.tries + 1)

    async def _wait(self) -> int | None:
        try:
            return await self._deps.installer.wait()
        except InstallFailed as error:
            # This counts as a try.
            self._log.error("The rollback failed: {error}", error=error)
            return None

    async def _install(self, good: Release, tries: int) -> None:
        deps = self._deps
        deps.journal.write(tries=tries, reboot_under_way=False)
        deps.installer.forget()
        try:
            await deps.preflight.require(good.version)
            with await deps.archives.open(good) as archive:
                await deps.unpacker.unpack(archive, good.version)
            await deps.installer.install(deps.unpacker.folder, good.version, rolling_back=True)
        except Exception as error:
            if is_temporary(error):
                # This does not count as a try.
                deps.journal.write(tries=tries - 1)
            if is_temporary(error) or isinstance(error, OSError) or not self._reporter.is_running():
                raise
            self._log.error("The rollback failed: {why}", why=self._reporter.explain(error))
            await deferLater(deps.clock, _RETRY_DELAYS[tries - 1])

    async def finish_rescue(self, release: Release) -> None:
        """Record the rollback that the rescue script has made."""
        self._deps.journal.block(release, _RESCUED)
        await self._finish(release, _RESCUED, Reason.RESCUED.value)
        self._deps.rescued.forget()

    def end_lost_trial(self) -> None:
        """End the trial of a release if another one runs."""
        deps, trial = self._deps, self._probation.trial
        installed, now = deps.installed.version, deps.now()
        if trial is None or installed in (None, trial.release.version):
            return
        self._probation.trial = None
        if deps.rescued.read() == installed:
            blocked = deps.journal.blocked_with(trial.release, _RESCUED)
            deps.journal.write(refused=blocked, trial=None)
            reason = _describe(trial.release, installed, _RESCUED)
            attempt = Attempt(
                trial.release.version,
                started=now,
                ended=now,
                outcome="returned",
                reason=reason,
                uuid=new_uuid(),
                previous=installed,
                automatic=True,
                stage=Stage.IDLE.value,
                code=Reason.RESCUED.value,
            )
            self._reporter.record(Stage.IDLE, attempt)
            deps.rescued.forget()
        else:
            # Somebody has installed it by hand.
            deps.journal.write(trial=None)

    async def _finish(self, release: Release, reason: str, code: str) -> None:
        installed = self._deps.installed.version
        self._reporter.show_running(installed)
        await self._reporter.finish("returned", _describe(release, installed, reason), code)


def _describe(release: Release, installed: int | None, reason: str) -> str:
    """Describe a rollback in a sentence."""
    return f"Release {release.version} failed, and the box runs release {installed} again. {reason}"
