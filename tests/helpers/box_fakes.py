"""Fakes of the steps of an update, and a bench on which a real updater runs them."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from opq_twisted.archive.name import UpdateName
from opq_twisted.archive.release import Release
from opq_twisted.box.config.settings import BoxConfig, UpdaterConfig
from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.box.download.downloader import Downloader
from opq_twisted.box.install.health import Health
from opq_twisted.box.install.inhibitor import Inhibitor
from opq_twisted.box.install.installer import Installer
from opq_twisted.box.install.preflight import Preflight
from opq_twisted.box.install.unpacker import Unpacker
from opq_twisted.box.offers.lookup import OfferLookup
from opq_twisted.box.offers.policy import Policy
from opq_twisted.box.state.journal import Journal
from opq_twisted.box.state.status import Progress, Status, StatusBoard
from opq_twisted.box.state.versions import Installed, Rescued
from opq_twisted.box.update.dependencies import Dependencies
from opq_twisted.box.update.updater import Updater
from opq_twisted.common.errors import BoxAtFault, BoxUnfit, DownloadFailed
from opq_twisted.trust.offer import Offer

OLD, NEW, NEWER = 1700000000, 1700000100, 1700000200


def logged(case: SynchronousTestCase) -> list[str]:
    """Collect what is logged from now until the end of the test."""
    said: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        said.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    case.addCleanup(globalLogPublisher.removeObserver, observe)
    return said


@frozen
class Begun:
    """A step that the updater began."""

    name: str
    #: The stage in the journal on the disk then; None if there was no journal.
    stage: str | None


class Steps:
    """Records each step of an update, which waits until the test gives its result."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._waiting: Deferred[Any] | None = None
        self.begun: list[Begun] = []

    def record(self, name: str) -> None:
        """Record a step that succeeds at once."""
        self.begun.append(Begun(name, self.stage))

    @property
    def stage(self) -> str | None:
        """The stage in the journal on the disk; None if there is no journal."""
        if not self._journal.exists():
            return None
        stage: str = json.loads(self._journal.read_text())["stage"]
        return stage

    def begin(self, name: str) -> Deferred[Any]:
        """Begin a step."""
        self.record(name)
        self._waiting = Deferred()
        return self._waiting

    @property
    def is_waiting(self) -> bool:
        """Whether a step waits for the test."""
        return self._waiting is not None and not self._waiting.called

    @property
    def names(self) -> list[str]:
        """The steps begun so far."""
        return [begun.name for begun in self.begun]

    def succeed(self, result: Any = None) -> None:
        """Let the current step succeed."""
        self.take().callback(result)

    def fail(self, error: Exception) -> None:
        """Let the current step fail."""
        self.take().errback(error)

    def take(self) -> Deferred[Any]:
        """Take the current step, to end it when others have begun."""
        waiting, self._waiting = self._waiting, None
        assert waiting is not None, f"no step waits, after {self.names}"
        return waiting


class StepOfferLookup(OfferLookup):
    """Lets the test answer checks: with an offer, or the version of an unsigned release."""

    def __init__(self, steps: Steps, config: UpdaterConfig) -> None:
        self._steps = steps
        self._config = config
        #: Whether the check of a release that is confirmed succeeds at once.
        self.answers_new_release = True

    async def newest(self) -> Offer | None:
        if self.answers_new_release and self._steps.stage == "confirming":
            return None
        newest: Offer | int | None = await self._steps.begin("newest")
        return Offer(newest) if isinstance(newest, int) else newest


class StepDownloader(Downloader):
    """Downloads nothing."""

    def __init__(self, steps: Steps, archives: "StepArchiveStore") -> None:
        self._steps = steps
        self._archives: StepArchiveStore = archives
        self.report: Callable[[Progress], object] = lambda progress: None
        self.say: Callable[[str], object] = lambda sentence: None
        #: The release of the last download.
        self.asked: Release | None = None
        self.asked_for_whole = False

    async def fetch(
        self,
        release: Release,
        report: Callable[[Progress], object],
        report_pause: Callable[[str], object],
        whole: bool = False,
    ) -> tuple[Release, int]:
        self.asked = release
        self.asked_for_whole = whole
        self.report = report
        self.say = report_pause
        await self._steps.begin("fetch")
        return Release(release.version, 10), 7

    async def verify(self, promised: Release) -> tuple[Release, BinaryIO]:
        await self._steps.begin("verify")
        return Release(promised.version, 10, {"sha256": "ab" * 32}), self._archives.hand_out(
            promised
        )


class StepArchiveStore(ArchiveStore):
    """Has every archive, unless the test says that it is lost."""

    def __init__(self, steps: Steps, folder: Path) -> None:
        super().__init__(folder)
        self._steps = steps
        #: The arguments of the last `clear`.
        self.kept: tuple[set[int | None], int | None] = (set(), None)
        #: The last archive that was opened.
        self.archive = BytesIO()
        #: Whether the archive that was verified before is lost.
        self.lost = False
        #: The release whose archive is on the disk already.
        self.here: Release | None = None

    def prune(self, *keep: int | None, fetching: int | None = None) -> None:
        """There is nothing to remove."""
        self.kept = (set(keep), fetching)

    async def find(self, release: Release) -> tuple[Release, BinaryIO] | None:
        return None if self.here is None else (self.here, self.hand_out(self.here))

    async def open(self, release: Release) -> BinaryIO:
        self._steps.record("open")
        if self.lost:
            raise DownloadFailed("It is lost.")
        return self.hand_out(release)

    def hand_out(self, release: Release) -> BinaryIO:
        self.archive = BytesIO(str(UpdateName(release.version)).encode())
        return self.archive


class StepUnpacker(Unpacker):
    """Unpacks nothing."""

    def __init__(self, steps: Steps, folder: Path) -> None:
        self._steps = steps
        self.folder = folder

    async def clear(self) -> None:
        """There is nothing to remove."""

    async def unpack(self, archive: BinaryIO, version: int) -> None:
        assert archive.read() == str(UpdateName(version)).encode()
        await self._steps.begin("unpack")


class StepPreflight(Preflight):
    """Finds the box fit, unless the test says otherwise."""

    def __init__(self) -> None:
        #: Why the box cannot install anything; None if it can.
        self.unfit: BoxUnfit | None = None
        #: The box's fault in a failed installation.
        self.fault: BoxUnfit | None = None
        #: The room of the last request.
        self.room = 0

    async def require(self, version: int, folder: Path | None = None, room: int = 0) -> None:
        self.room = room
        if self.unfit is not None:
            raise self.unfit

    async def require_running(self, version: int) -> None:
        await self.require(version)

    async def find_problem(self, version: int) -> BoxUnfit | None:
        return self.fault


class StepInstaller(Installer):
    """Installs nothing, and reboots nothing."""

    #: The box's shortage in a failed installation.
    shortage: BoxUnfit | None = None

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def forget(self) -> None:
        """There is nothing to forget."""
        self._steps.record("forget")

    async def install(self, folder: Path, version: int, rolling_back: bool = False) -> None:
        await self._steps.begin("install")

    async def renew_rescue(self, version: int) -> None:
        """There is nothing to replace."""

    def box_at_fault(self) -> BoxAtFault:
        return BoxAtFault("The box says so.", touched=False)

    async def wait(self) -> int | None:
        status: int | None = await self._steps.begin("wait")
        return status

    async def reboot(self) -> None:
        await self._steps.begin("reboot")


class StepHealth(Health):
    """Finds a release healthy at once, unless the test wants to judge."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        #: The deadline of the last judgement.
        self.deadline: float | None = None
        #: Whether the test judges.
        self.asks = False

    async def require(self, folder: Path, version: int, deadline: float) -> None:
        self.deadline = deadline
        if self.asks:
            await self._steps.begin("judge")


class StepReports:
    """Records what is to be reported, and sends nothing."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        #: What happened since the agent's start, and is to be reported.
        self.told: list[str] = []
        #: Whether an installation waits for the test.
        self.is_awaited = False

    async def before_install(self) -> None:
        """Wait for the test, if it says so."""
        self.told.append("install")
        if self.is_awaited:
            await self._steps.begin("report")

    def attempt_ended(self) -> None:
        """Record the end."""
        self.told.append("end")

    def checked(self) -> None:
        """Record the check."""
        self.told.append("check")


class Bench:
    """A real updater on a fake box, whose steps wait for the test."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder = folder.absolute()
        folder.mkdir(exist_ok=True)
        self.clock = Clock()
        self.clock.advance(NEW)
        self.journal_path = folder / "journal.json"
        self.version_file = folder / "VERSION"
        self.image_file = folder / "IMAGE_VERSION"
        self.box_id = 7
        self.set_installed(OLD)
        self.config = UpdaterConfig(
            **{
                "allow_unsigned": True,
                "trusted_root": folder / "root.json",
                "version_file": self.version_file,
                "log": folder / "box_update.log",
                "inhibit_file": folder / "inhibit-update",
                **settings,
            }
        )
        self.make_agent()

    def make_agent(self, boot_id: str = "first boot") -> None:
        """Make an agent, whose updater is not started."""
        self.steps = Steps(self.journal_path)
        self.board = StatusBoard(Status())
        self.journal = Journal(self.journal_path, boot_id)
        self.health = StepHealth(self.steps)
        self.archives = StepArchiveStore(self.steps, self.folder)
        self.preflight = StepPreflight()
        self.reports = StepReports(self.steps)
        self.releases = StepOfferLookup(self.steps, self.config)
        self.installer = StepInstaller(self.steps)
        self.downloader = StepDownloader(self.steps, self.archives)
        config = BoxConfig("http://updates.example:8151", self.box_id, self.config)
        installed = Installed(self.version_file, self.image_file)
        self.deps = Dependencies(
            clock=self.clock,
            config=self.config,
            policy=Policy(config, installed, self.journal, self.clock.seconds),
            offers=self.releases,
            installed=installed,
            downloader=self.downloader,
            archives=self.archives,
            unpacker=StepUnpacker(self.steps, self.folder / "unpacked"),
            inhibitor=Inhibitor(self.clock, self.config.inhibit_file, self.clock.seconds),
            preflight=self.preflight,
            installer=self.installer,
            health=self.health,
            rescued=Rescued(self.folder / "rescued"),
            journal=self.journal,
            board=self.board,
            now=self.clock.seconds,
            reports=self.reports,
        )
        self.updater = Updater(self.deps)

    def start(self) -> "Bench":
        """Start the updater."""
        self.updater.startService()
        # Let the reactor run.
        self.clock.advance(0)
        return self

    def restart(self, boot_id: str = "first boot") -> None:
        """Kill the agent, and start another."""
        self.make_agent(boot_id)
        self.start()

    def set_installed(self, version: int | None) -> None:
        """Let a release be the installed one; None for an unknown one."""
        self.version_file.write_text(f"{version}\n")

    @property
    def status(self) -> Status:
        """The status now."""
        return self.board.current
