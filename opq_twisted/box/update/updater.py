"""The journey of one update: check, download, verify, unpack, install, reboot, confirm."""

import errno
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NoReturn, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from opq_twisted.box.config import UpdaterConfig
from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.box.download.downloader import Downloader
from opq_twisted.box.install.health import Health
from opq_twisted.box.install.inhibitor import Inhibitor
from opq_twisted.box.install.installer import Installer
from opq_twisted.box.install.preflight import BOX_AT_FAULT, Preflight
from opq_twisted.box.install.unpacker import Unpacker
from opq_twisted.box.offers.lookup import OfferLookup
from opq_twisted.box.offers.policy import Policy
from opq_twisted.box.state.journal import Journal
from opq_twisted.box.state.records import Attempt, Blocked, Release, Stage
from opq_twisted.box.state.rescued import Rescued
from opq_twisted.box.state.status import StatusBoard
from opq_twisted.box.state.versions import Installed
from opq_twisted.box.update.probation import COUNTED_EVERY, LONGEST, Probation
from opq_twisted.common.errors import (
    MACHINE_BUSY,
    ArchiveRefused,
    BoxAtFault,
    BoxUnfit,
    ClockBehind,
    DownloadFailed,
    InstallFailed,
    Interrupted,
    NoRoom,
    NotStarted,
    NoWayBack,
    OpqError,
    PiecesDiffer,
    RebootFailed,
    ReturnFailed,
    ServerFailed,
    UnsignedRefused,
    UpdateInProgress,
)
from opq_twisted.trust.offer import Offer

_T = TypeVar("_T")

#: How often a release may be begun, over all starts of the agent, before it counts as failed.
MAX_TRIES = 3

#: Seconds after which a reboot that was asked for counts as one that does not come.
_REBOOT_PATIENCE = 600.0

#: Seconds after its deadline, and the time to settle, that agents of one boot may go on confirming.
_LONGEST_CONFIRMATION = 1800.0

#: Seconds between the times that the box is asked to reboot in a row; after as many it is given up.
_REBOOT_PAUSES = (2.0, 10.0)

#: Seconds between the looks of an update that nobody clicked for; after as many that fail it is
#: given up. They begin at a moment of each box's own.
_LOOK_PAUSES = (60.0, 120.0)

#: Seconds: a server that wants to be left alone for longer is asked again after these.
_LONGEST_PAUSE = 600.0

#: Seconds until it looks again whether the disk works.
_DISK_PAUSE = 60.0

#: Seconds between the attempts of an update that goes on after an interruption.
_PAUSES = (10.0, 20.0, 60.0, 300.0, 600.0)

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

#: For what the release itself is to blame.
_TO_BLAME = (ArchiveRefused, InstallFailed)

#: For what the box is to blame.
_BOX_TO_BLAME = (BoxAtFault, BoxUnfit, NotStarted)

#: After these the update goes on when somebody reboots the box.
_GO_ON = (RebootFailed, ReturnFailed)

#: Seconds that a look may take which is not to hold up an update.
_LOOK_TIMEOUT = 60.0

#: Seconds after which a successful look is written down again.
_LOOKS_WRITTEN = 6 * 3600.0

#: Seconds for which the record of a look shows that the box remembers what it writes.
_REMEMBERED = 24 * 3600.0

#: How long a box without such a record runs before it installs anything by itself: so many times
#: `check_every`, and at most so many seconds.
_FORGETFUL_CHECKS = 3
_FORGETFUL_WAIT = 3 * 3600.0

_RESCUED = "Its agent did not start, or did nothing, and the box's rescue script came to help."

_UNDER_WAY = {
    Stage.CHECKING: "Asking the update server for the newest release.",
    Stage.DOWNLOADING: "Downloading the new release.",
    Stage.VERIFYING: "Checking that the download is whole.",
    Stage.UNPACKING: "Unpacking the new release.",
    Stage.INSTALLING: "Installing the new release; this can take some minutes.",
    Stage.REBOOTING: "Rebooting. This page waits for the box.",
    Stage.CONFIRMING: "Looking whether the new release runs, and is healthy.",
}


class Updater(Service):
    """
    Takes the box from the release that runs to the newest one; one journey at a time.

    Before each step the journal says which, and `startService` goes on where an earlier run of the
    agent was interrupted.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        config: UpdaterConfig,
        policy: Policy,
        releases: OfferLookup,
        installed: Installed,
        downloader: Downloader,
        archives: ArchiveStore,
        unpacker: Unpacker,
        inhibitor: Inhibitor,
        preflight: Preflight,
        installer: Installer,
        health: Health,
        rescued: Rescued,
        journal: Journal,
        board: StatusBoard,
        now: Callable[[], float],
    ) -> None:
        """:param now: the time of day, in seconds since the epoch."""
        self._clock = clock
        self._config = config
        self._policy = policy
        self._releases = releases
        self._installed = installed
        self._downloader = downloader
        self._archives = archives
        self._unpacker = unpacker
        self._inhibitor = inhibitor
        self._preflight = preflight
        self._installer = installer
        installer.when_busy = lambda error: board.publish(message=self._explain(error))
        self._health = health
        self._rescued = rescued
        self._journal = journal
        self._board = board
        self._now = now
        self._probation = Probation(journal, archives, installer)
        self._counting = LoopingCall(self._count_uptime)
        self._counting.clock = clock
        #: By the clock: the uptime until then is counted.
        self._counted = clock.seconds()
        #: The last sign, before this start, that what is written is remembered.
        self._remembered = max(journal.entry.looked, installed.changed)
        self._started = clock.seconds()
        self._offer: Offer | None = None
        self._looking: Deferred[None] | None = None
        self._lookers: list[Deferred[int | None]] = []
        self._journey: Deferred[None] | None = None
        #: Whether the box was asked to reboot, and has not refused.
        self._reboot_awaited = False

    def startService(self) -> None:
        """Take up the journey that the journal tells of."""
        super().startService()
        self._begin_history()
        with self._telling("The end of a trial cannot be written down"):
            self._end_lost_trial()
        entry = self._journal.entry
        last_reason = entry.attempts[-1].reason if entry.attempts else ""
        self._board.publish(
            installed=self._installed.version,
            unsigned=self._releases.unsigned,
            last_attempt=entry.attempts[-1] if entry.attempts else None,
            last_took=self._journal.last_took,
            stage=entry.stage,
            message=self._describe(entry.stage) or last_reason,
        )
        self._count_trial()
        if entry.after_reboot is not None and not self._journal.same_boot:
            self._set_out(self._resume_after_failing(entry.after_reboot, entry.awaited))
        elif not entry.stage.at_rest:
            self._set_out(self._resume(entry.release))

    def _begin_history(self) -> None:
        """Where there was one that is lost, let the next one begin with that."""
        trouble, now = self._journal.trouble, self._now()
        if trouble:
            with self._telling("The loss of the journal cannot be written down"):
                self._journal.end(Stage.IDLE, Attempt(None, now, now, "failed", trouble))

    def _end_lost_trial(self) -> None:
        """Notice that another release runs than the one that was to prove itself."""
        trial, installed, now = self._probation.trial, self._installed.version, self._now()
        if trial is None or not self._journal.entry.stage.at_rest:
            return
        if installed in (None, trial.release.version):
            return
        self._probation.trial = None
        if self._rescued.read() == installed:
            self._journal.block(trial.release, _RESCUED, trial=None)
            reason = _returned(trial.release.version, installed, _RESCUED)
            attempt = Attempt(trial.release.version, now, now, "returned", reason)
            self._journal.end(Stage.IDLE, attempt)
            self._rescued.forget()
        else:
            # Somebody has installed it by hand.
            self._journal.write(trial=None)

    def _count_trial(self) -> None:
        if self._probation.trial is not None and not self._counting.running:
            self._counted = self._clock.seconds()
            self._counting.start(COUNTED_EVERY, now=False)

    def _count_uptime(self) -> None:
        if self._probation.trial is None:
            self._counting.stop()
            return
        with self._telling("How long the release has run cannot be written down"):
            is_over = self._count()
            if is_over and self._journey is None and self._journal.entry.stage.at_rest:
                self._set_out(self._end_trial())

    def _count(self) -> bool:
        before, self._counted = self._counted, self._clock.seconds()
        return self._probation.count(self._counted - before)

    async def _end_trial(self) -> None:
        """Go back from a release whose agent does not reach the server, if a last look fails."""
        await self._try_to_look()
        trial = self._probation.trial
        if trial is None:
            return
        try:
            await self._preflight.require(trial.release.version)
            await self._probation.require_way_back()
        except (BoxUnfit, DownloadFailed, OSError) as error:
            # A box that waits for somebody while it goes back would not look for updates either.
            self._log.warn("{error}", error=error)
        else:
            await self._inhibitor.wait_until_released(
                self._now(), lambda reason: self._board.publish(message=reason)
            )
            self._rescued.forget()
            await self._return(
                trial.release,
                InstallFailed(
                    f"It could not look for an update in {LONGEST / 86400:.0f} days, and the "
                    "release before it could."
                ),
                attempt=self._journal.entry.attempt + 1,
                started=self._now(),
                automatic=True,
                **self._probation.changes_of_return(),
            )

    async def _try_to_look(self) -> None:
        """Look, for a while at most, and go on whatever comes of it."""
        try:
            await self.look().addTimeout(_LOOK_TIMEOUT, self._clock)
        except Exception as error:
            # A broken client may fail in any way.
            if not self.running:
                raise
            self._log.warn("The update server was not asked: {error!r}", error=error)

    def stopService(self) -> Deferred[None] | None:
        """Interrupt the journey; an installer that runs goes on."""
        super().stopService()
        if self._counting.running:
            self._counting.stop()
            with self._telling("How long the release has run cannot be written down"):
                self._count()
        if self._reboot_awaited or self._journal.entry.stage is Stage.REBOOTING:
            with self._telling("The reboot cannot be written down"):
                self._journal.write(reboot_under_way=True)
        for under_way in (self._journey, self._looking):
            if under_way is not None:
                under_way.cancel()
        return self._journey

    def look(self) -> Deferred[int | None]:
        """
        Ask for the newest release, and publish the answer.

        Who asks while an answer is awaited gets that one: a hundred open pages ask once.

        :returns: its version; None when there is none. Fails with OpqError when there is no answer,
            or none that this box can believe; with OSError when its disk fails, or is full.
        """
        looker: Deferred[int | None] = Deferred()
        self._lookers.append(looker)
        if self._looking is None:
            looking = Deferred.fromCoroutine(self._look()).addBoth(self._tell)
            self._looking = None if looking.called else looking
        return looker

    def _tell(self, answer: int | Failure | None) -> None:
        lookers, self._lookers, self._looking = self._lookers, [], None
        for looker in lookers:
            looker.callback(answer)

    async def _look(self) -> int | None:
        try:
            self._offer = offer = await self._releases.newest()
        except (OpqError, OSError) as error:
            trouble = self._explain(error)
            self._judge(error)
            self._board.publish(trouble=trouble)
            self._publish_check(trouble)
            raise
        if self._releases.signed or self._releases.unsigned:
            # An agent that has lost the trusted root hears of releases, and can install none.
            self._judge(None)
            with self._telling("The release cannot be made the last good one"):
                await self._probation.prove()
        shown = None if offer is None else self._policy.advertise(offer)
        newest = None if shown is None else shown.version
        is_newer = shown is not None and self._policy.why_not(shown) is None
        forbidden = self._releases.why_forbidden(shown) if shown and is_newer else None
        self._board.publish(
            available=newest,
            update_available=is_newer and forbidden is None,
            size=None if shown is None else shown.size,
            notes=None if shown is None else shown.notes,
            trouble=forbidden,
            unsigned=self._releases.unsigned,
        )
        if forbidden is not None:
            self._offer = None
            self._publish_check(forbidden)
            raise UnsignedRefused(forbidden)
        self._publish_check(self._describe_available())
        return newest

    def _judge(self, error: Exception | None) -> None:
        """Draw from a look what it tells of releases, and of the box."""
        status = self._board.current
        with self._telling("What came of the look cannot be written down"):
            if not status.stage.may_be_live:
                self._probation.judge(status.installed, error)
            now, last = self._now(), self._journal.entry.looked
            if error is None and status.stage.at_rest and not 0 <= now - last < _LOOKS_WRITTEN:
                self._journal.write(looked=now)

    def forgive(self, version: int) -> bool:
        """
        Let a release that was refused be tried again by itself; whether it was.

        :raises OSError: when that cannot be written down.
        """
        was_refused = self._journal.unblock(version)
        if was_refused and self._board.current.stage.at_rest and self._offer is not None:
            self._board.publish(message=self._policy.describe(self._offer))
        return was_refused

    @property
    def history(self) -> tuple[tuple[Attempt, ...], tuple[Blocked, ...]]:
        """The last attempts, the oldest first, and what is refused."""
        return self._journal.entry.attempts, self._journal.entry.refused

    @property
    def is_due(self) -> bool:
        """Whether the release that was offered last is to be installed without anybody's click."""
        return self._is_wanted and self._remembers

    @property
    def _is_wanted(self) -> bool:
        if self._offer is None:
            return False
        offer = self._policy.choose(self._offer, automatic=True)
        return self._policy.why_not(offer) is None and self._policy.why_not_by_itself(offer) is None

    @property
    def _remembers(self) -> bool:
        """
        Whether the box is known to remember what it does, or has run for some hours.

        A box that forgets all at each restart would otherwise install the same release for ever,
        where nothing else tells of that.
        """
        wait = min(_FORGETFUL_CHECKS * self._config.check_every, _FORGETFUL_WAIT)
        return (
            self._now() - self._remembered < _REMEMBERED
            or self._clock.seconds() - self._started >= wait
        )

    def _publish_check(self, message: str) -> None:
        stage = self._board.current.stage
        if not stage.at_rest and stage is not Stage.CHECKING:
            # What an update says is of more use than what somebody's check found meanwhile.
            message = self._board.current.message
        self._board.publish(message=message, last_check=self._now())

    def begin(self, delay: float = 0.0, automatic: bool = False) -> None:
        """
        Set out for the newest release.

        :param delay: seconds to wait between the check and the download.
        :param automatic: nobody asked for it, so that a release that was refused stays refused.
        :raises UpdateInProgress: when a journey is under way.
        """
        if self._journey is not None:
            raise UpdateInProgress(f"An update is under way already: {self._board.current.stage}.")
        self._set_out(self._update(delay, automatic))

    def _set_out(self, journey: Coroutine[Deferred[Any], Any, None]) -> None:
        """Own a journey: whatever comes of it is recorded, and the next one may begin."""

        async def guarded() -> None:
            try:
                await journey
            except Exception as error:
                # Of an agent that stops, the journal says where to go on.
                if self.running:
                    await self._give_up(error)
            finally:
                self._journey = None

        self._journey = Deferred()
        running = Deferred.fromCoroutine(guarded())
        self._journey = None if running.called else running

    async def _update(self, delay: float, automatic: bool, tries: int = 1) -> None:
        attempt = {"attempt": self._journal.entry.attempt + 1, "started": self._now()}
        self._enter(
            Stage.CHECKING,
            release=None,
            tries=tries,
            automatic=automatic,
            **(attempt if tries == 1 else {}),
        )
        offer = await self._check(automatic)
        if offer is None:
            self._enter(Stage.IDLE)
            return
        if delay > 0:
            minutes = math.ceil(delay / 60)
            self._board.publish(
                message=f"The download begins within {minutes} minute{'s' * (minutes > 1)}, at a "
                "moment of this box's own: not all boxes ask at once."
            )
        await deferLater(self._clock, delay)
        release = Release(offer.version, offer.size, offer.hashes)
        archive = await self._fetch(release, offer)
        if automatic and self._config.window and not self._config.window.is_open(self._now()):
            # It was a long way. What is here is found when the window opens again.
            archive.close()
            self._enter(Stage.IDLE)
            self._board.publish(message=self._describe_available())
            return
        await self._install(release, archive)

    async def _check(self, automatic: bool) -> Offer | None:
        """Find what there is to install; None when there is nothing."""
        if automatic:
            await self._look_patiently()
        else:
            await self.look()
        if self._offer is None:
            return None
        offer = self._policy.choose(self._offer, automatic)
        if self._policy.why_not(offer) is not None:
            return None
        reason = self._policy.why_not_by_itself(offer) if automatic else None
        if reason is not None:
            self._board.publish(message=reason)
            return None
        # The page names the release that is on its way, not a newer one whose turn comes later.
        self._board.publish(
            available=offer.version, update_available=True, size=offer.size, notes=offer.notes
        )
        try:
            await self._require_fit(Release(offer.version, offer.size, offer.hashes))
        except BoxUnfit as error:
            if not automatic:
                raise
            # Nobody asked, and it is tried again with each look.
            self._log.warn("{error}", error=error)
            self._board.publish(message=str(error), trouble=str(error))
            return None
        return offer

    async def _require_fit(self, release: Release) -> None:
        """Before anything is fetched or unpacked."""
        delay = self._journal.find_postponed(release)
        await self._preflight.require(release.version, room=delay.room if delay else 0)

    async def _look_patiently(self) -> None:
        """
        Look; when the server is busy, or has an older copy of the metadata, look again later.

        Whoever has clicked is told instead. Nobody else would try again before the next scheduled
        look, which may find a good copy and begin with an older one as before.
        """
        for pause in _LOOK_PAUSES:
            try:
                await self.look()
            except ServerFailed as error:
                self._log.warn("{error}", error=error)
                await deferLater(
                    self._clock, max(pause, min(error.retry_after or 0.0, _LONGEST_PAUSE))
                )
            else:
                return
        await self.look()

    async def _fetch(self, release: Release, offer: Offer) -> BinaryIO:
        """Bring the archive to the box, as it was promised; returns it verified and open."""
        # From here on there is less and less of what a release that waits for a reboot needs.
        self._enter(Stage.DOWNLOADING, release=release, after_reboot=None, awaited=None)
        # What an earlier attempt left must not take this one's room, but for a part of the same.
        await self._unpacker.clear()
        self._archives.clear(
            self._board.current.installed, release.version, fetching=release.version
        )
        here = await self._archives.find(release)
        received, archive = here or await self._download(release)
        try:
            delay = self._journal.find_postponed(release)
            self._enter(
                Stage.UNPACKING,
                release=received,
                delay=delay if delay and delay.reason else None,
            )
            # A trusted root may have come to the box meanwhile.
            self._releases.require_permission(offer)
        except (OpqError, OSError):
            archive.close()
            raise
        return archive

    async def _download(self, release: Release) -> tuple[Release, BinaryIO]:
        try:
            return await self._fetch_and_verify(release)
        except PiecesDiffer as error:
            self._log.warn("The archive is fetched anew: {error}", error=error)
        self._enter(Stage.DOWNLOADING, release=release)
        return await self._fetch_and_verify(release, last=True)

    async def _fetch_and_verify(
        self, release: Release, last: bool = False
    ) -> tuple[Release, BinaryIO]:
        under_way = _UNDER_WAY[Stage.DOWNLOADING]
        promised = await self._downloader.fetch(
            release,
            lambda progress: self._board.publish(progress=progress, message=under_way),
            lambda sentence: self._board.publish(message=sentence),
        )
        self._enter(Stage.VERIFYING, release=promised)
        try:
            return await self._downloader.verify(promised)
        except DownloadFailed as error:
            # A server or a mirror that lies must not have the box fetch it again and again.
            if last or not isinstance(error, PiecesDiffer):
                self._journal.postpone(release, self._now())
            raise

    async def _install(self, release: Release, archive: BinaryIO, tries: int = 1) -> None:
        """Unpack and install the release whose verified archive this is, and reboot."""
        with archive:
            await self._unpacker.unpack(archive, release.version)
        await self._inhibitor.wait_until_released(
            self._journal.entry.started, lambda reason: self._board.publish(message=reason)
        )
        await self._preflight.require(release.version, self._unpacker.folder)
        # What a rescue left is not this release's doing. The next line syncs the folder.
        self._rescued.forget()
        self._installer.forget()
        self._enter(Stage.INSTALLING, tries=tries)
        try:
            await self._installer.install(self._unpacker.folder, release.version)
        except InstallFailed as error:
            await self._find_fault(release, error)
        await self._insist(self._reboot)

    async def _find_fault(self, release: Release, error: InstallFailed) -> NoReturn:
        """Fail for the box's fault if it has one, and for the release's otherwise."""
        fault = await self._preflight.blame(release.version) or self._installer.shortage
        if fault is not None:
            raise BoxAtFault(f"{error} {fault}", touched=True) from None
        raise error

    async def _reboot(self, tries: int = 1) -> None:
        self._enter(Stage.REBOOTING, tries=tries, reboot_under_way=False)
        await self._ask_for_reboot()

    async def _ask_for_reboot(self) -> None:
        """Ask again, too: a box that is left here may have none of its services running."""
        for pause in _REBOOT_PAUSES:
            try:
                await self._ask_once_for_reboot()
            except RebootFailed as error:
                self._log.error("{error}", error=error)
            await deferLater(self._clock, pause)
        await self._ask_once_for_reboot()

    async def _ask_once_for_reboot(self) -> None:
        self._reboot_awaited = True
        try:
            await self._installer.reboot()
            self._journal.write(reboot_under_way=True)
            # What follows is done by the agent that the reboot starts.
            await deferLater(self._clock, _REBOOT_PATIENCE)
        finally:
            self._reboot_awaited = False
        raise RebootFailed("The box was asked to reboot, but did not. Reboot it by hand.")

    async def _resume(self, release: Release | None) -> None:
        """Go on where the journal says that an earlier run was interrupted."""
        # Until the reactor runs a signal ends the agent without a word, such as that of a reboot
        # that only restarts it.
        await deferLater(self._clock, 0)
        stage = self._journal.entry.stage
        self._log.info("Going on where an earlier run of the agent ended: {stage}", stage=stage)
        if release is None or not stage.may_be_live:
            await self._begin_again()
        else:
            await self._resume_after_unpacking(release)

    async def _resume_after_failing(self, stage: Stage, release: Release | None) -> None:
        """Go on after the reboot, or the return, that the box itself could not bring about."""
        done = {"after_reboot": None, "awaited": None}

        async def begin() -> bool:
            known = [each.version for each in (release, self._archives.last_good) if each]
            if self._installed.read() in (None, *known):
                self._enter(stage, release=release, tries=0, reboot_under_way=True, **done)
                return True
            # Somebody has mended the box by hand.
            self._enter(Stage.IDLE, **done)
            self._board.publish(message="")
            return False

        if await self._insist(begin):
            await self._resume(release)

    async def _resume_after_unpacking(self, release: Release) -> None:
        """Go on where nothing can be left as it is."""
        resume = {
            Stage.INSTALLING: self._resume_installing,
            Stage.REBOOTING: self._resume_rebooting,
            Stage.CONFIRMING: self._resume_confirming,
            Stage.RETURNING: self._resume_returning,
        }

        async def step() -> None:
            if self._rescued.read() in (None, release.version):
                await resume[self._journal.entry.stage](release)
            else:
                await self._end_rescued(release)

        await self._insist(step)

    async def _insist(self, step: Callable[[], Awaitable[_T]]) -> _T:
        """Do what cannot be left undone, be it that the disk is full, or fails, for a while."""
        while True:
            try:
                return await step()
            except (NoRoom, BoxUnfit, OSError) as error:
                self._log.error("{error}", error=error)
                self._board.publish(message=self._explain(error))
            await deferLater(self._clock, _DISK_PAUSE)

    async def _begin_again(self) -> None:
        """Start over: nothing was installed yet. After a power cut network and clock come last."""
        automatic, tries = self._journal.entry.automatic, self._journal.entry.tries + 1
        if tries > MAX_TRIES:
            raise Interrupted(f"The update was interrupted {MAX_TRIES} times. Click to try again.")
        for pause in _PAUSES:
            try:
                await self._update(0.0, automatic, tries)
            except (ServerFailed, ClockBehind) as error:
                self._log.warn("{error}", error=error)
                await deferLater(self._clock, pause)
            else:
                return
        await self._update(0.0, automatic, tries)

    @property
    def _has_rebooted(self) -> bool:
        """
        Whether the box has rebooted since the entry was written.

        A sandbox or a container keeps its boot id when it is restarted: there the journal says
        that the reboot was under way when the agent ended.
        """
        return self._journal.entry.reboot_under_way or not self._journal.same_boot

    async def _resume_rebooting(self, release: Release) -> None:
        """Confirm after the reboot, or ask for it again."""
        entry = self._journal.entry
        if self._has_rebooted:
            await self._confirm(release)
        elif entry.tries < MAX_TRIES:
            await self._reboot(entry.tries + 1)
        else:
            raise RebootFailed(f"The box did not reboot, asked {MAX_TRIES} times. Do it by hand.")

    async def _resume_installing(self, release: Release) -> None:
        """Learn what became of the script that outlived the agent, or went with the power."""
        status = await self._installer.wait()
        rebooted = not self._journal.same_boot
        put_in_place = self._installed.read() == release.version
        if rebooted and (status == 0 or (status is None and put_in_place)):
            await self._confirm(release)
        elif status == 0:
            await self._reboot()
        elif status == BOX_AT_FAULT:
            raise self._installer.box_at_fault()
        elif status is not None:
            error = InstallFailed(
                f"install_update.sh ended with exit status {status}. See {self._config.log}."
            )
            await self._find_fault(release, error)
        else:
            tries = self._journal.entry.tries + 1
            if tries > MAX_TRIES:
                raise InstallFailed(
                    f"Release {release.version} was interrupted {MAX_TRIES} times. "
                    "Click to try again."
                )
            # Counted now, or what unpacking does to the box would be tried for ever.
            self._enter(Stage.INSTALLING, tries=tries)
            try:
                await self._preflight.require(release.version)
                await self._install(release, await self._archives.open(release), tries)
            except (NoRoom, BoxUnfit, OSError) as error:
                self._take_back_try(error)
                raise

    async def _resume_confirming(self, release: Release) -> None:
        """Go on confirming; a release with which the box falls over again and again is not good."""
        entry = self._journal.entry
        if self._journal.same_boot:
            deadline = self._clock.seconds() if entry.deadline is None else entry.deadline
            # What was healthy by the deadline had the time to settle, even if agents start slowly.
            if self._clock.seconds() > deadline + self._config.settle + _LONGEST_CONFIRMATION:
                raise InstallFailed(
                    f"Release {release.version} did not prove itself: its agent was started again "
                    "and again."
                )
            await self._confirm(release, entry.tries, entry.deadline)
        elif entry.tries < MAX_TRIES:
            await self._confirm(release, entry.tries + 1)
        else:
            raise InstallFailed(f"The box fell over {MAX_TRIES} times with {release.version}.")

    async def _confirm(
        self, release: Release, tries: int = 1, deadline: float | None = None
    ) -> None:
        """See to it that the release that was installed runs, and is healthy."""
        if deadline is None:
            deadline = self._clock.seconds() + self._config.confirm_timeout
        self._enter(Stage.CONFIRMING, tries=tries, deadline=deadline)
        # Where it cannot be read the release is not to blame.
        installed = self._installed.read()
        self._board.publish(installed=installed)
        if installed != release.version:
            raise InstallFailed(
                f"After the reboot the box runs {installed or 'an unknown release'}, "
                f"not {release.version}. See {self._config.log}."
            )
        try:
            await self._health.require(self._unpacker.folder, release.version, deadline)
        except OSError:
            await self._insist(self._extend_deadline)
            raise
        except InstallFailed:
            await self._require_judge(release)
            raise
        with self._telling("The release cannot be made the last good one"):
            await self._probation.begin(release, self._journal.entry.started)
        # An agent that dies of it has not confirmed its release.
        await self._try_to_look()
        reason = f"The box runs release {installed}."
        if self._probation.trial is not None:
            reason += " Its agent has not reached the update server yet."
        await self._arrive("updated", reason)

    async def _require_judge(self, release: Release) -> None:
        """Where the box cannot run verify_update.sh, nobody knows how the release is."""
        try:
            await self._preflight.require_running(release.version)
        except BoxUnfit:
            await self._insist(self._extend_deadline)
            raise

    async def _extend_deadline(self) -> None:
        """Give the release all of its time once more: the machine was too busy to judge it."""
        self._journal.write(deadline=self._clock.seconds() + self._config.confirm_timeout)

    async def _give_up(self, error: Exception) -> None:
        """Return to the last good release, if the box may be anything but that; or fail."""
        entry = self._journal.entry
        if entry.release and self._may_be_touched(error):
            try:
                if await self._insist(self._has_last_good):
                    return await self._return(entry.release, error)
            except Exception as failure:
                if not self.running:
                    return
                error = failure
        if not isinstance(error, _GO_ON):
            try:
                with self._telling("What was unpacked cannot be removed"):
                    await self._unpacker.clear()
            except CancelledError:
                return
        self._fail(error)

    def _may_be_touched(self, error: Exception) -> bool:
        """Whether what has failed may have left the box as it was not before."""
        entry = self._journal.entry
        if entry.stage is Stage.INSTALLING:
            harmless = isinstance(error, NotStarted) or (
                isinstance(error, BoxAtFault) and not error.touched
            )
            # An earlier try was interrupted, nobody knows where.
            return entry.tries > 1 or not harmless
        return entry.stage is Stage.CONFIRMING

    async def _has_last_good(self) -> bool:
        return self._archives.last_good is not None

    async def _return(self, release: Release, error: Exception, **more: Any) -> None:
        """
        Install the last good release again, whose archive needs nothing of what was there.

        :param more: what else the journal is to say.
        """
        cause = self._explain(error)
        self._log.error("The update failed: {cause}", cause=cause)
        changes = {
            "stage": Stage.RETURNING,
            "release": release,
            "tries": 0,
            "cause": cause,
            "reboot_under_way": False,
            **more,
        }

        async def begin() -> None:
            self._installer.forget()
            if isinstance(error, _TO_BLAME):
                self._journal.block(release, cause, **changes)
            else:
                if isinstance(error, _BOX_TO_BLAME):
                    self._put_off(release, cause, error)
                self._journal.write(**changes)
            self._show(Stage.RETURNING)

        await self._insist(begin)
        await self._resume_after_unpacking(release)

    async def _resume_returning(self, release: Release) -> None:
        """Install the last good release, reboot, and say so; each as far as it is not done yet."""
        while True:
            entry, good = self._journal.entry, self._archives.last_good
            if good is None:
                raise NoWayBack(f"{entry.cause} There is no last good release to return to.")
            status, is_last = await self._wait_while_returning(), entry.tries >= MAX_TRIES
            in_place = self._installed.read() == good.version
            if self._has_rebooted and in_place and (status == 0 or is_last):
                return await self._end_returning(release, entry.cause)
            if status == 0 and not self._has_rebooted:
                return await self._ask_for_reboot()
            if is_last:
                raise ReturnFailed(
                    f"{entry.cause} The box could not return to release {good.version}. "
                    "Reboot it: then it tries again."
                )
            await self._install_last_good(good, entry.tries + 1)

    async def _wait_while_returning(self) -> int | None:
        try:
            return await self._installer.wait()
        except InstallFailed as error:
            # A try like another.
            self._log.error("Returning failed: {error}", error=error)
            return None

    async def _install_last_good(self, good: Release, tries: int) -> None:
        self._journal.write(tries=tries, reboot_under_way=False)
        self._installer.forget()
        try:
            await self._preflight.require(good.version)
            with await self._archives.open(good) as archive:
                await self._unpacker.unpack(archive, good.version)
            await self._installer.install(self._unpacker.folder, good.version, rolling_back=True)
        except (NoRoom, BoxUnfit, OSError) as error:
            self._take_back_try(error)
            raise
        except Exception as error:
            if not self.running:
                raise
            self._log.error("Returning failed: {why}", why=self._explain(error))
            await deferLater(self._clock, _PAUSES[tries])

    def _take_back_try(self, error: NoRoom | BoxUnfit | OSError) -> None:
        """Do not count a try that the box's own state has prevented: that is waited for."""
        if isinstance(error, (NoRoom, BoxUnfit)) or error.errno in (*_DISK_FULL, *MACHINE_BUSY):
            self._journal.write(tries=self._journal.entry.tries - 1)

    async def _end_rescued(self, release: Release) -> None:
        self._journal.block(release, _RESCUED)
        await self._end_returning(release, _RESCUED)
        self._rescued.forget()

    async def _end_returning(self, release: Release, reason: str) -> None:
        installed = self._installed.version
        self._board.publish(installed=installed)
        await self._arrive("returned", _returned(release.version, installed, reason))

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Go on where the disk, or a script, does not do what would be good to have."""
        try:
            yield
        except (OpqError, OSError) as error:
            self._log.error("{what}: {why}", what=what, why=self._explain(error))

    def _explain(self, error: Exception) -> str:
        if isinstance(error, OpqError):
            return str(error)
        if isinstance(error, OSError):
            if error.errno in _DISK_FULL:
                return "The box's disk is full. Make room, and try again."
            if error.errno in MACHINE_BUSY:
                return f"The box has too much to do: {error.strerror}. Try again later."
            return f"The box's disk fails: {error.strerror or error}."
        self._log.failure("The update failed in a way that nobody foresaw", Failure(error))
        return "The agent failed; its log says how."

    def _fail(self, error: Exception) -> None:
        reason = self._explain(error)
        self._log.error("The update failed: {reason}", reason=reason)
        release = self._journal.entry.release
        if isinstance(error, _TO_BLAME) and release is not None:
            with self._telling("The refused release cannot be written down"):
                self._journal.block(release, reason)
        if isinstance(error, _BOX_TO_BLAME) and release is not None:
            with self._telling("The pause until the next try cannot be written down"):
                self._put_off(release, reason, error)
        goes_on = isinstance(error, _GO_ON)
        after_reboot = self._journal.entry.stage if goes_on else None
        attempt = self._record_end(Stage.FAILED, "failed", reason, after_reboot)
        self._show_end(Stage.FAILED, attempt)

    def _put_off(self, release: Release, reason: str, error: Exception) -> None:
        """Let the box try again by itself, more and more seldom, or once it has the room."""
        room = error.room if isinstance(error, BoxUnfit) else 0
        self._journal.postpone(release, self._now(), reason, room, self._config.check_every)

    async def _arrive(self, outcome: str, reason: str) -> None:
        """Record that the box is at rest, on a release that is good, and tidy up."""
        attempt = self._record_end(Stage.IDLE, outcome, reason)
        self._count_trial()
        # Not sooner: until then it may be needed once more.
        with self._telling("What is not needed any more cannot be removed"):
            await self._unpacker.clear()
            self._archives.clear(self._installed.version)
        self._show_end(Stage.IDLE, attempt)

    def _record_end(
        self, stage: Stage, outcome: str, reason: str, after_reboot: Stage | None = None
    ) -> Attempt:
        """Write down how the journey ended."""
        entry = self._journal.entry
        attempt = Attempt(
            version=None if entry.release is None else entry.release.version,
            started=entry.started,
            ended=self._now(),
            outcome=outcome,
            reason=reason,
            id=entry.attempt,
        )
        with self._telling("The end of the update cannot be written down"):
            self._journal.end(
                stage, attempt, after_reboot, self._probation.trial_of(self._installed.version)
            )
        return attempt

    def _show_end(self, stage: Stage, attempt: Attempt) -> None:
        self._log.info("Stage: {stage}", stage=stage)
        self._board.publish(
            stage=stage,
            progress=None,
            message=attempt.reason,
            last_attempt=attempt,
            last_took=self._journal.last_took,
        )

    def _enter(self, stage: Stage, **changes: Any) -> None:
        """Write the next stage down, and only then let it begin."""
        self._journal.write(stage=stage, **changes)
        self._show(stage)

    def _show(self, stage: Stage) -> None:
        self._log.info("Stage: {stage}", stage=stage)
        message = self._describe(stage) or self._board.current.message
        self._board.publish(stage=stage, progress=None, message=message)

    def _describe(self, stage: Stage) -> str:
        """Say what goes on; nothing where nothing does."""
        if stage is Stage.RETURNING:
            return f"Installing the last good release again. {self._journal.entry.cause}"
        return _UNDER_WAY.get(stage, "")

    def _describe_available(self) -> str:
        if self._offer is not None:
            if self._config.install == "automatic" and self._is_wanted and not self._remembers:
                return (
                    f"Release {self._offer.version} is available. The box has no record of the "
                    "last day, and installs it by itself when it has run for some hours."
                )
            return self._policy.describe(self._offer)
        channel = f" in the channel {self._config.channel}" if self._releases.signed else ""
        return f"The update server has no update{channel}."


def _returned(version: int, installed: int | None, reason: str) -> str:
    return f"Release {version} failed, and the box runs {installed} again. {reason}"
