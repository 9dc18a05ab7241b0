"""Makes a release the last good one when its own agent has reached the update server."""

from attrs import evolve
from twisted.logger import Logger

from opq_twisted.archive.release import Release
from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.box.install.installer import Installer
from opq_twisted.box.state.journal import Journal
from opq_twisted.box.state.records import EntryChanges, Trial
from opq_twisted.common.errors import ClockBehind, DownloadFailed, OpqError

#: Seconds that a release may run, over all boots, without a successful check.
MAX_UPTIME = 3 * 24 * 3600.0

#: Seconds between two records of the uptime, which must also grow if the box is switched off often.
COUNT_INTERVAL = 600.0


class Probation:
    """
    Tests whether the agent of the release that runs can reach the update server.

    An agent that cannot reach it would strand its box, even if the box is healthy. So the archive
    of the release before is kept until the new agent has succeeded. If the new agent runs for three
    days without a success, and the old one had one, the box rolls back, and the new release is
    blocked. If the first check of the old agent fails, too, the network or the server is at fault,
    and the release is unblocked. That happens only once for each release, so that no box alternates
    between two.
    """

    _log = Logger()

    def __init__(self, journal: Journal, archives: ArchiveStore, installer: Installer) -> None:
        self._journal = journal
        self._archives = archives
        self._installer = installer
        #: The trial of the release that runs; None if it is over.
        self.trial: Trial | None = journal.entry.trial

    def trial_of(self, running: int | None) -> Trial | None:
        """Return the trial of the release that runs; the trial of another one ends."""
        if self.trial is not None and running not in (None, self.trial.release.version):
            self.trial = None
        return self.trial

    async def begin(self, release: Release, looked_before: float) -> None:
        """
        Begin the trial of a release that is healthy.

        :param looked_before: the last successful check of the agent before it, in seconds since
            the epoch.
        :raises OpqError: if there is no last good release, and this one cannot be kept as such.
        :raises OSError: if the disk fails.
        """
        self.trial = Trial(release, looked_before)
        if self._archives.last_good is None:
            # Without a last good release, the box could not roll back at all.
            await self._keep(release)

    async def prove(self) -> None:
        """
        Make the release that runs the last good one: its agent has reached the update server.

        :raises DownloadFailed: if its archive is damaged: it cannot be the last good one.
        :raises OSError: if the disk fails; the next check tries again.
        """
        trial = self.trial
        if trial is None:
            return
        try:
            await self._keep(trial.release)
        except DownloadFailed:
            self._end_trial()
            raise
        self._end_trial()
        try:
            await self._installer.renew_rescue(trial.release.version)
        except (OpqError, OSError) as error:
            self._log.error("The rescue script cannot be replaced: {error}", error=error)

    async def _keep(self, release: Release) -> None:
        good = self._archives.last_good
        if good is None or good.version != release.version:
            # The disk may have damaged the archive since it was verified.
            (await self._archives.open(release)).close()
            self._archives.keep_as_last_good(release)

    def _end_trial(self) -> None:
        self.trial = None
        if self._journal.entry.trial is not None:
            self._journal.write(trial=None)

    def count(self, seconds: float) -> bool:
        """
        Add to the uptime of the release; returns whether its trial is over without a success.

        :raises OSError: if it cannot be written; it counts nevertheless.
        """
        trial = self.trial
        if trial is None:
            return False
        self.trial = evolve(trial, uptime=trial.uptime + seconds)
        self._journal.write(trial=self.trial)
        if self.trial.uptime < MAX_UPTIME:
            return False
        good = self._archives.last_good
        is_another = good is not None and good.version != trial.release.version
        return is_another and trial.looked_before > 0

    async def require_rollback(self) -> None:
        """
        Make sure that the previous release can be installed again; otherwise no rollback follows.

        :raises DownloadFailed: if its archive is damaged.
        :raises OSError: if the disk fails; the archive may be intact.
        """
        good = self._archives.last_good
        try:
            if good is not None:
                (await self._archives.open(good)).close()
        except DownloadFailed:
            # The release continues to check, and may still succeed.
            if self.trial is not None:
                self.trial = evolve(self.trial, looked_before=0.0)
            raise

    def end_by_rollback(self) -> EntryChanges:
        """End the trial without a success; returns the changes of the journal."""
        trial, self.trial = self.trial, None
        return {"trial": None, "doubted": None if trial is None else trial.release}

    def judge(self, running: int | None, error: Exception | None) -> None:
        """
        Decide, from the first check after a rollback, whether the release was to blame.

        :param running: the release that runs.
        :param error: the error of the check; None if it succeeded.
        :raises OSError: if the result cannot be written; the next check decides again.
        """
        doubted, acquitted = self._journal.entry.doubted, self._journal.entry.acquitted
        if doubted is None:
            return
        succeeded, is_running = error is None, running == doubted.version
        if succeeded and is_running:
            # The rollback failed, and the release runs and works.
            self._acquit(doubted)
        elif succeeded or (acquitted == doubted.version and not is_running):
            self._journal.write(doubted=None)
        elif not is_running and isinstance(error, OpqError) and not isinstance(error, ClockBehind):
            self._log.info("Release {version} was not to blame", version=doubted.version)
            self._acquit(doubted)

    def _acquit(self, release: Release) -> None:
        refused = tuple(
            each for each in self._journal.entry.refused if each.version != release.version
        )
        self._journal.write(refused=refused, doubted=None, acquitted=release.version)
