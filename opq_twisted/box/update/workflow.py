"""An update from top to bottom: check, download, verify, unpack, install, reboot."""

import math
from typing import BinaryIO, NoReturn

from attrs import define, field
from twisted.internet.defer import CancelledError
from twisted.internet.task import deferLater
from twisted.logger import Logger

from opq_twisted.archive.release import Release
from opq_twisted.box.state.records import EntryChanges
from opq_twisted.box.state.stages import Stage
from opq_twisted.box.update.checker import Checker
from opq_twisted.box.update.dependencies import Dependencies
from opq_twisted.box.update.reporting import Reporter
from opq_twisted.common import wording
from opq_twisted.common.errors import (
    BoxAtFault,
    BoxUnfit,
    DownloadFailed,
    InstallFailed,
    OpqError,
    RebootFailed,
    WronglyJoined,
)
from opq_twisted.trust.offer import Offer

#: Seconds after which a reboot that was accepted counts as failed.
_REBOOT_TIMEOUT = 600.0

#: Seconds after each failed request to reboot; the update fails if one more request fails.
_REBOOT_DELAYS = (2.0, 10.0)


@define
class Workflow:
    """
    The steps of an update until the box reboots; `Recovery` confirms the release afterwards.

    Before each step the journal gets its stage. A step that fails raises an error.
    """

    _log = Logger()

    _deps: Dependencies
    _reporter: Reporter
    _checker: Checker
    #: Whether the box was asked to reboot, and has not refused.
    reboot_awaited: bool = field(default=False, init=False)

    async def update(self, delay: float, automatic: bool, tries: int = 1) -> None:
        """
        Download the newest release, install it, and reboot.

        :param delay: seconds between the check and the download.
        :param automatic: whether it begins without a click.
        :param tries: the number of this try, if earlier ones were interrupted.
        """
        journal, window = self._deps.journal, self._deps.config.window
        changes = EntryChanges(release=None, tries=tries, automatic=automatic)
        if tries == 1:
            changes |= journal.next_attempt(self._deps.now(), self._deps.installed.running)
        self._reporter.enter(Stage.CHECKING, **changes)
        offer = await self._find(automatic)
        if offer is None:
            return self._reporter.enter(Stage.IDLE)
        await self._wait(delay)
        archive = await self._fetch(offer)
        if automatic and window and not window.is_open(self._deps.now()):
            # The download took long. The archive is found when the window opens again.
            archive.close()
            return self._leave()
        await self._unpack(offer.release, archive)
        if automatic and not await self._checker.is_still_due(offer):
            with self._reporter.tolerate("The unpacked files cannot be removed"):
                await self._deps.unpacker.clear()
            return self._leave()
        self._show(offer)
        # Another measurement may have begun while the server was asked.
        await self._wait_for_measurement()
        await self._install(offer.release)

    async def _find(self, automatic: bool) -> Offer | None:
        """Find the release to install; None if there is none."""
        deps = self._deps
        await (self._checker.check_with_retries() if automatic else self._checker.check())
        if self._checker.offer is None:
            return None
        offer = deps.policy.choose(self._checker.offer, automatic)
        if deps.policy.why_not(offer) is not None:
            return None
        refusal = deps.policy.why_not_by_itself(offer) if automatic else None
        if refusal is not None:
            deps.board.publish(message=refusal.sentence)
            return None
        self._show(offer)
        delay = deps.journal.find_postponed(offer.release)
        try:
            await deps.preflight.require(offer.version, room=delay.room if delay else 0)
        except BoxUnfit as error:
            if not automatic:
                raise
            # Nobody is waiting, and each scheduled check tries again.
            self._log.warn("{error}", error=error)
            deps.board.publish(message=str(error), trouble=str(error))
            return None
        return offer

    def _show(self, offer: Offer) -> None:
        """Let the page name this release, and not a newer one that is still held back."""
        self._deps.board.publish(
            available=offer.version,
            update_available=True,
            held=offer.is_stopped,
            size=offer.size,
            notes=offer.notes,
        )

    def _leave(self) -> None:
        """End an attempt before anything was installed; a later check begins another one."""
        self._reporter.enter(Stage.IDLE)
        self._deps.board.publish(message=self._checker.describe())

    async def _wait(self, delay: float) -> None:
        if delay > 0:
            minutes = wording.count(math.ceil(delay / 60), "minute")
            self._deps.board.publish(
                message=f"The download begins within {minutes}, at a random time, so that not all "
                "boxes ask at once."
            )
        await deferLater(self._deps.clock, delay)

    async def _fetch(self, offer: Offer) -> BinaryIO:
        """Find or download the archive; returns it verified and open."""
        deps, release = self._deps, offer.release
        # The next lines remove files with which an earlier update could be resumed after a reboot.
        self._reporter.enter(Stage.DOWNLOADING, release=release, after_reboot=None, awaited=None)
        # Make room: of earlier attempts, only a part of the same archive is useful.
        await deps.unpacker.clear()
        deps.archives.prune(deps.installed.running, release.version, fetching=release.version)
        received, archive = await deps.archives.find(release) or await self._download(release)
        try:
            delay = deps.journal.find_postponed(release)
            delay = delay if delay and delay.reason else None
            self._reporter.enter(Stage.UNPACKING, release=received, delay=delay)
            # The box may have got a trusted root meanwhile.
            deps.offers.require_permission(offer)
        except (OpqError, OSError):
            archive.close()
            raise
        return archive

    async def _download(self, release: Release) -> tuple[Release, BinaryIO]:
        try:
            return await self._download_once(release)
        except WronglyJoined as error:
            self._log.warn("The archive is downloaded again: {error}", error=error)
        self._reporter.enter(Stage.DOWNLOADING, release=release, whole=release)
        return await self._download_once(release, last=True)

    async def _download_once(
        self, release: Release, last: bool = False
    ) -> tuple[Release, BinaryIO]:
        deps = self._deps
        message = Stage.DOWNLOADING.message
        promised, fetched = await deps.downloader.fetch(
            release,
            lambda progress: deps.board.publish(progress=progress, message=message),
            lambda sentence: deps.board.publish(message=sentence),
            whole=deps.journal.must_be_whole(release),
        )
        self._reporter.enter(Stage.VERIFYING, release=promised, fetched=fetched)
        try:
            return await deps.downloader.verify(promised)
        except DownloadFailed as error:
            # A bad server or mirror must not make the box fetch the archive again and again.
            if last or not isinstance(error, WronglyJoined):
                deps.journal.postpone(release, deps.now())
            raise

    async def install(self, release: Release, archive: BinaryIO, tries: int = 1) -> None:
        """
        Unpack and install a release, and reboot.

        :param archive: its verified archive, which is closed.
        :param tries: the number of this try, if earlier ones were interrupted.
        """
        await self._unpack(release, archive)
        await self._install(release, tries)

    async def _unpack(self, release: Release, archive: BinaryIO) -> None:
        """Unpack a release, and wait until the box may be interrupted."""
        deps = self._deps
        with archive:
            await deps.unpacker.unpack(archive, release.version)
        await self._wait_for_measurement()

    async def _wait_for_measurement(self) -> None:
        deps = self._deps
        since = deps.now()
        await deps.inhibitor.wait_until_released(
            deps.journal.entry.started, lambda reason: deps.board.publish(message=reason)
        )
        self._reporter.leave_out(deps.now() - since)

    async def _install(self, release: Release, tries: int = 1) -> None:
        """Install an unpacked release, and reboot."""
        deps = self._deps
        await deps.preflight.require(release.version, deps.unpacker.folder)
        # An earlier rescue is no evidence about this release. The next line syncs the folder.
        deps.rescued.forget()
        deps.installer.forget()
        self._reporter.enter(Stage.INSTALLING, tries=tries)
        await self._report_install()
        # Another measurement may have begun meanwhile.
        await self._wait_for_measurement()
        deps.board.publish(message=Stage.INSTALLING.message)
        try:
            await deps.installer.install(deps.unpacker.folder, release.version)
        except InstallFailed as error:
            await self.diagnose(release, error)
        await self._reporter.retry(self.reboot)

    async def _report_install(self) -> None:
        """Report that the script is about to run; a failure is no reason not to run it."""
        try:
            await self._deps.reports.before_install()
        except CancelledError:
            raise
        except Exception:
            self._log.failure("The installation cannot be reported")

    async def diagnose(self, release: Release, error: InstallFailed) -> NoReturn:
        """
        Decide whether the box or the release caused a failed installation.

        :raises BoxAtFault: if the box did.
        :raises InstallFailed: the error, if the release did.
        """
        deps = self._deps
        fault = await deps.preflight.find_problem(release.version) or deps.installer.shortage
        if fault is not None:
            raise BoxAtFault(f"{error} {fault}", touched=True, code=fault.code) from None
        raise error

    async def reboot(self, tries: int = 1) -> None:
        """Enter the stage, and ask for the reboot; the agent resumes after it."""
        self._reporter.enter(Stage.REBOOTING, tries=tries, reboot_under_way=False)
        await self.ask_for_reboot()

    async def ask_for_reboot(self) -> None:
        """
        Ask for a reboot, and retry if it fails, because the box's services may not run now.

        :raises RebootFailed: if the box does not reboot; it never returns.
        """
        for delay in _REBOOT_DELAYS:
            try:
                await self._ask_once_for_reboot()
            except RebootFailed as error:
                self._log.error("{error}", error=error)
            await deferLater(self._deps.clock, delay)
        await self._ask_once_for_reboot()

    async def _ask_once_for_reboot(self) -> None:
        self.reboot_awaited = True
        try:
            await self._deps.installer.reboot()
            self._deps.journal.write(reboot_under_way=True)
            # The agent that the reboot starts does the rest.
            await deferLater(self._deps.clock, _REBOOT_TIMEOUT)
        finally:
            self.reboot_awaited = False
        raise RebootFailed("The box was asked to reboot, but did not. Reboot it by hand.")

    @property
    def has_rebooted(self) -> bool:
        """
        Whether the box has rebooted since the entry was written.

        A sandbox or a container keeps its boot id when it is restarted: there the journal says
        that the reboot was under way when the agent ended.
        """
        journal = self._deps.journal
        return journal.entry.reboot_under_way or not journal.same_boot
