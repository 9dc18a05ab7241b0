"""Makes a release the last good one only when its own agent has looked for an update."""

from typing import Any

from attrs import evolve
from twisted.logger import Logger

from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.box.install.installer import Installer
from opq_twisted.box.state.journal import Journal
from opq_twisted.box.state.records import Release, Trial
from opq_twisted.common.errors import ClockBehind, DownloadFailed, OpqError

#: Seconds that a release may run, over all boots, without a successful look.
LONGEST = 3 * 24 * 3600.0

#: Seconds between two entries of how long it has run; a box may be switched off each hour.
COUNTED_EVERY = 600.0


class Probation:
    """
    Judges the release that runs by whether its agent reaches the update server.

    An agent that cannot would strand its box for good, healthy as it is. So the archive of the
    release before is kept until then. After three days the box goes back to it, and the new release
    is refused. The release before takes that back when its first look fails, too: then the network
    or the server is at fault. That happens once for each release, so that no box goes to and fro.
    """

    _log = Logger()

    def __init__(self, journal: Journal, archives: ArchiveStore, installer: Installer) -> None:
        self._journal = journal
        self._archives = archives
        self._installer = installer
        #: The release that runs, until it is proven; None when it is.
        self.trial: Trial | None = journal.entry.trial

    def trial_of(self, running: int | None) -> Trial | None:
        """Give the trial of the release that runs, and end that of another one."""
        if self.trial is not None and running not in (None, self.trial.release.version):
            self.trial = None
        return self.trial

    async def begin(self, release: Release, looked_before: float) -> None:
        """
        Let a release that was found healthy prove itself.

        :param looked_before: when the agent before it looked with success, in seconds since the
            epoch.
        :raises OpqError: when it is the only one to return to, and cannot be kept.
        :raises OSError: when the disk fails.
        """
        self.trial = Trial(release, looked_before)
        if self._archives.last_good is None:
            # One that is healthy is better than none.
            await self._keep(release)

    async def prove(self) -> None:
        """
        Make the release that runs the last good one: its agent has looked with success.

        :raises DownloadFailed: when its archive is not on the disk as it came: it never becomes it.
        :raises OSError: when the disk fails; the next look tries it again.
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
            # What was read when it came may never have come to the disk as it was.
            (await self._archives.open(release)).close()
            self._archives.keep_as_last_good(release)

    def _end_trial(self) -> None:
        self.trial = None
        if self._journal.entry.trial is not None:
            self._journal.write(trial=None)

    def count(self, seconds: float) -> bool:
        """
        Count how long the release has run; whether it is to give way to the one before.

        :raises OSError: when it cannot be written down; it is counted all the same.
        """
        trial = self.trial
        if trial is None:
            return False
        self.trial = evolve(trial, uptime=trial.uptime + seconds)
        self._journal.write(trial=self.trial)
        return self.trial.uptime >= LONGEST and self._can_return(self.trial)

    def _can_return(self, trial: Trial) -> bool:
        good = self._archives.last_good
        is_another = good is not None and good.version != trial.release.version
        return is_another and trial.looked_before > 0

    async def require_way_back(self) -> None:
        """
        Make sure that the release before can be installed again, or let the trial have no end.

        :raises DownloadFailed: when its archive is not on the disk as it came.
        :raises OSError: when the disk fails; the archive may be whole.
        """
        good = self._archives.last_good
        try:
            if good is not None:
                (await self._archives.open(good)).close()
        except DownloadFailed:
            # What cannot return to it must go on to look, and may still prove itself.
            if self.trial is not None:
                self.trial = evolve(self.trial, looked_before=0.0)
            raise

    def changes_of_return(self) -> dict[str, Any]:
        """Give what the journal is to say when the box goes back from the release."""
        trial, self.trial = self.trial, None
        return {"trial": None, "doubted": None if trial is None else trial.release}

    def judge(self, running: int | None, error: Exception | None) -> None:
        """
        Let the first look after a return tell whether the release was to blame.

        :param running: the release that runs.
        :param error: why the look came to nothing; None when it went well.
        :raises OSError: when the verdict cannot be written down; the next look gives another.
        """
        doubted, acquitted = self._journal.entry.doubted, self._journal.entry.acquitted
        if doubted is None:
            return
        went_well, is_running = error is None, running == doubted.version
        if went_well and is_running:
            # The box could not return from it.
            self._acquit(doubted)
        elif went_well or (acquitted == doubted.version and not is_running):
            self._journal.write(doubted=None)
        elif not is_running and isinstance(error, OpqError) and not isinstance(error, ClockBehind):
            self._log.info("Release {version} was not to blame", version=doubted.version)
            self._acquit(doubted)

    def _acquit(self, release: Release) -> None:
        refused = tuple(
            each for each in self._journal.entry.refused if each.version != release.version
        )
        self._journal.write(refused=refused, doubted=None, acquitted=release.version)
