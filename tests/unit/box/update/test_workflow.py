"""An update that nothing interrupts: its order, and its failures."""

from datetime import datetime, timedelta
from typing import Any

from attrs import evolve

from opq_twisted.archive.release import Release
from opq_twisted.box.config.window import DailyWindow
from opq_twisted.box.state.records import Entry, Timing
from opq_twisted.box.state.stages import Stage
from opq_twisted.box.state.status import Progress
from opq_twisted.box.update.recovery import MAX_TRIES
from opq_twisted.common.errors import (
    ArchiveRefused,
    BoxAtFault,
    BoxUnfit,
    ClockBehind,
    DownloadFailed,
    InstallFailed,
    NoRoom,
    NotStarted,
    RebootFailed,
    ServerFailed,
    Stale,
    Untrusted,
    WronglyJoined,
)
from tests.helpers.box_fakes import NEW, NEWER, OLD, Begun, Bench
from tests.helpers.updater_case import STEPS, UpdaterCase


class WorkflowTests(UpdaterCase):
    """An update that nothing interrupts."""

    def test_written_before_begun(self) -> None:
        """The journal says which step comes before the step begins."""
        self.click("reboot")
        self.assertEqual(self.bench.steps.begun, STEPS)
        entry = self.on_disk()
        self.assertEqual(entry.release, Release(NEW, 10, {"sha256": "ab" * 32}))
        self.assertEqual(entry.started, NEW)

    def test_stages_shown(self) -> None:
        """Each stage is published once the journal has it."""
        stages: list[Stage] = []

        def observe(status: Any) -> None:
            self.assertEqual(self.on_disk().stage, status.stage)
            if status.stage not in stages:
                stages.append(status.stage)

        self.bench.board.subscribe(observe)
        self.click("reboot")
        expected = "checking downloading verifying unpacking installing rebooting"
        self.assertEqual(stages, [Stage(name) for name in expected.split()])
        self.assertEqual(self.bench.status.available, NEW)

    def test_durations(self) -> None:
        """The durations of the stages are kept through the reboot; the waiting does not count."""
        self.bench.config.inhibit_file.touch()
        self.click("unpack")
        self.bench.clock.advance(10)
        self.succeed()
        self.bench.clock.advance(1000)
        self.bench.config.inhibit_file.unlink()
        self.bench.clock.advance(5)
        self.assertEqual(self.bench.steps.names[-1], "install")
        self.bench.clock.advance(90)
        self.succeed()
        self.bench.clock.advance(40)
        self.bench.set_installed(NEW)
        self.bench.make_agent("second boot")
        self.bench.health.asks = True
        self.bench.start()
        self.bench.clock.advance(7)
        self.succeed()
        status = self.bench.status
        self.assertEqual((status.stage, status.available), (Stage.IDLE, NEW))
        expected = {"unpacking": 10.0, "installing": 90.0, "rebooting": 40.0, "confirming": 7.0}
        self.assertEqual({key: status.stage_took.get(key) for key in expected}, expected)

    def test_progress(self) -> None:
        """The progress of the download is shown while it lasts."""
        self.click("fetch")
        self.bench.downloader.report(Progress(5, 10, 1.0))
        self.assertEqual(self.bench.status.progress, Progress(5, 10, 1.0))
        self.bench.steps.succeed()
        self.assertIsNone(self.bench.status.progress)

    def test_pauses(self) -> None:
        """The reason for a pause of the download is shown until it goes on."""
        self.click("fetch")
        self.bench.downloader.say("The server is busy. The box asks again in 7 seconds.")
        status = self.bench.status
        self.assertEqual(status.stage, Stage.DOWNLOADING)
        self.assertEqual(status.message, "The server is busy. The box asks again in 7 seconds.")
        self.bench.downloader.report(Progress(5, 10, 1.0))
        self.assertEqual(self.bench.status.message, "Downloading the new release.")

    def test_part_kept(self) -> None:
        """Before a download all archives are removed, except the installed one and a part."""
        self.click("fetch")
        self.assertEqual(self.bench.archives.kept, ({OLD, NEW}, NEW))
        self.assertEqual(self.bench.downloader.asked, Release(NEW))

    def test_archive_closed(self) -> None:
        """The verified archive is unpacked, and closed then."""
        self.click("unpack")
        self.assertFalse(self.bench.archives.archive.closed)
        self.succeed()
        self.assertTrue(self.bench.archives.archive.closed)

    def test_fetched(self) -> None:
        """The journal says how many bytes travelled; a new attempt forgets it."""
        self.click("verify")
        self.assertEqual(self.on_disk().fetched, 7)
        self.fail_with(DownloadFailed("What came has another SHA-256."))
        self.click("fetch")
        self.assertIsNone(self.on_disk().fetched)

    def test_assembled_badly(self) -> None:
        """An archive that was assembled badly is downloaded whole, also by later updates."""
        self.click("fetch")
        self.assertFalse(self.bench.downloader.asked_for_whole)
        self.succeed()
        self.bench.steps.fail(WronglyJoined("What came has another SHA-256."))
        self.assertTrue(self.bench.downloader.asked_for_whole)
        self.assertEqual(self.on_disk().whole, Release(NEW))
        self.bench.restart()
        self.proceed("fetch")
        self.assertTrue(self.bench.downloader.asked_for_whole)
        self.fail_with(DownloadFailed("The connection broke."))
        self.find(NEWER)
        self.assertFalse(self.bench.downloader.asked_for_whole)

    def test_delay(self) -> None:
        """A delay passes between the check and the download."""
        self.bench.updater.begin(delay=300)
        self.bench.steps.succeed(NEW)
        self.bench.clock.advance(299)
        self.assertEqual(self.bench.steps.names, ["newest"])
        self.assertEqual(self.bench.status.stage, Stage.CHECKING)
        self.bench.clock.advance(1)
        self.assertEqual(self.bench.steps.names, ["newest", "fetch"])

    def test_up_to_date(self) -> None:
        """A box installs nothing if it has the newest release, or if there is none."""
        older = (
            f"The box is up to date: release {OLD - 1}, which is offered, is older than the one "
            "installed."
        )
        reasons = {
            OLD: "The box is up to date.",
            OLD - 1: older,
            None: "The update server has no update.",
        }
        for number, (newest, reason) in enumerate(reasons.items(), 1):
            with self.subTest(newest=newest):
                self.find(newest)
                self.assertEqual(self.bench.status.stage, Stage.IDLE)
                self.assertEqual(self.bench.status.message, reason)
                self.assertFalse(self.bench.status.update_available)
                entry = Entry(
                    boot_id="first boot", started=NEW, attempt=number, tries=1, previous=OLD
                )
                self.assertEqual(evolve(self.on_disk(), timing=Timing(), uuid=""), entry)
        self.assert_works_again()

    def test_nothing_installed(self) -> None:
        """A box that does not know its release installs any."""
        self.bench.version_file.unlink()
        self.bench.restart()
        self.assertIsNone(self.bench.status.installed)
        self.assert_works_again()

    def test_on_the_disk(self) -> None:
        """An archive that an earlier attempt has verified is unpacked at once."""
        received = Release(NEW, 10, {"sha256": "ab" * 32})
        self.bench.archives.here = received
        self.click("unpack")
        self.assertEqual(self.bench.steps.names, ["newest", "unpack"])
        self.assertEqual(self.on_disk().release, received)


class BlockedTests(UpdaterCase):
    """A release that has failed before."""

    def test_pieces_differ(self) -> None:
        """Pieces that do not fit together are downloaded once more; then it is postponed."""
        self.click("verify")
        self.bench.steps.fail(WronglyJoined("What came has another SHA-256."))
        self.assertEqual(self.bench.steps.begun[-1], Begun("fetch", "downloading"))
        self.proceed("reboot")
        self.assertIsNone(self.on_disk().delay)
        self.setUp()
        self.click("verify")
        for _ in range(2):
            self.assertEqual(self.bench.steps.names[-1], "verify")
            self.bench.steps.fail(WronglyJoined("What came has another SHA-256."))
            if self.bench.steps.names[-1] == "fetch":
                self.succeed()
        self.assert_failed("What came has another SHA-256.")
        self.assertEqual(self.bench.steps.names.count("fetch"), 2)
        self.assertIsNotNone(self.on_disk().delay)

    def test_postponed(self) -> None:
        """A wrong download is postponed, unless somebody clicks."""
        self.click("verify")
        self.bench.steps.fail(DownloadFailed("Another SHA-256."))
        self.find(NEW, automatic=True)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertIn("downloads it again later", self.bench.status.message)
        self.bench.clock.advance(3600)
        self.find(NEW, automatic=True)
        self.proceed("unpack")
        self.assertIsNone(self.on_disk().delay)
        self.bench.steps.fail(NoRoom("Make room."))
        self.assert_works_again()


class ShutWindowTests(UpdaterCase):
    """A download that outlasts the window in which the box may install."""

    def begin(self, automatic: bool) -> None:
        now = datetime.fromtimestamp(NEW)
        window = DailyWindow((now - timedelta(hours=1)).time(), (now + timedelta(hours=1)).time())
        self.bench = Bench(self.folder, install="automatic", window=window).start()
        self.bench.updater.begin(automatic=automatic)
        self.proceed("verify")
        self.bench.clock.advance(3601)
        self.succeed()

    def test_by_itself(self) -> None:
        """The archive is kept until the window opens again."""
        self.begin(automatic=True)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertIn("is available; it is installed between", self.bench.status.message)
        self.assertTrue(self.bench.archives.archive.closed)
        self.assertEqual(self.bench.steps.names[-1], "verify")
        self.assert_works_again()

    def test_clicked(self) -> None:
        """A click installs at once."""
        self.begin(automatic=False)
        self.assertEqual(self.bench.steps.names[-1], "unpack")


class FailureTests(UpdaterCase):
    """Every failure is reported, and the next click works."""

    def test_each_step(self) -> None:
        """A failure in any step ends the update with its reason."""
        for step, error in (
            ("newest", ServerFailed("Nobody is there.")),
            ("newest", Stale("It has expired.")),
            ("newest", Untrusted("It is another.")),
            ("newest", ClockBehind("Wait.")),
            ("fetch", ServerFailed("It is gone.")),
            ("fetch", DownloadFailed("The connection broke.")),
            ("fetch", NoRoom("Make room.")),
            ("verify", DownloadFailed("It is another.")),
            ("unpack", ArchiveRefused("It has a link.")),
            ("unpack", NoRoom("Make room.")),
            ("install", InstallFailed("It ended with 1.")),
            ("reboot", RebootFailed("Reboot by hand.")),
        ):
            with self.subTest(step=step, error=error):
                self.click(step)
                self.fail_with(error)
                self.assert_failed(str(error))
                version = None if step == "newest" else NEW
                self.assertEqual(self.on_disk().attempts[-1].version, version)
                self.assert_works_again()
                self.refuse_reboot("Reboot by hand.")

    def test_what_is_blocked(self) -> None:
        """A release is blocked only if it is to blame itself."""
        for step, error, refused in (
            ("newest", Stale("It has expired."), False),
            ("newest", Untrusted("It is another."), False),
            ("newest", ClockBehind("Wait."), False),
            ("fetch", DownloadFailed("The connection broke."), False),
            ("unpack", NoRoom("Make room."), False),
            ("reboot", RebootFailed("Reboot by hand."), False),
            ("unpack", ArchiveRefused("It has a link."), True),
            ("install", InstallFailed("It ended with 1."), True),
        ):
            with self.subTest(error=error):
                self.click(step)
                self.fail_with(error)
                refusals = [(item.version, item.sha256) for item in self.on_disk().refused]
                self.assertEqual(refusals, [(NEW, "ab" * 32)] if refused else [])

    def test_journal_at_each_stage(self) -> None:
        """A stage that cannot be recorded does not begin, and the next click works."""
        for previous, step in zip([None, *STEPS], STEPS, strict=False):
            if step.name == "forget":
                continue
            with self.subTest(step=step):
                if previous is None:
                    self.fill_disk()
                    self.bench.updater.begin()
                else:
                    self.click("unpack" if previous.name == "forget" else previous.name)
                    self.fill_disk()
                    self.succeed()
                if step.name == "reboot":
                    # What has been installed cannot be left like that.
                    self.assertIn("disk is full", self.bench.status.message)
                    self.bench.clock.advance(60)
                    self.assertEqual(self.bench.steps.begun[-1], step)
                    continue
                self.assert_failed("The box's disk is full. Make room, and try again.")
                self.assert_works_again()
                self.refuse_reboot("Reboot by hand.")

    def test_archive_closed(self) -> None:
        """The archive is closed even if it is not unpacked, or cannot be."""
        self.click("verify")
        self.fill_disk()
        self.succeed()
        self.assertTrue(self.bench.archives.archive.closed)
        self.click("unpack")
        self.bench.steps.fail(ArchiveRefused("It has a link."))
        self.assertTrue(self.bench.archives.archive.closed)

    def test_reboot_does_not_come(self) -> None:
        """If the box was asked three times, and does not reboot, the update fails."""
        self.click("reboot")
        for asked in range(1, 4):
            self.bench.steps.succeed()
            self.bench.clock.advance(599)
            self.assertEqual(self.bench.status.stage, Stage.REBOOTING)
            self.assertEqual(self.bench.steps.names.count("reboot"), asked)
            self.bench.clock.pump([1, 10])
        self.assert_failed("The box was asked to reboot, but did not. Reboot it by hand.")
        self.assert_works_again()


class BoxFaultTests(UpdaterCase):
    """If the box itself is at fault, the release is not blocked, and is tried again."""

    def assert_not_blocked(self, reason: str) -> None:
        self.assert_failed(reason)
        self.assertEqual(self.refused, [])

    def test_unfit(self) -> None:
        """If the box cannot install a release it is not downloaded; a click gets the reason."""
        self.bench.preflight.unfit = BoxUnfit("The box cannot write in /opt.")
        self.click()
        self.succeed()
        self.assertEqual(self.bench.steps.names, ["newest"])
        self.assert_not_blocked("The box cannot write in /opt.")
        self.bench.preflight.unfit = None
        self.assert_works_again()

    def test_unfit_by_itself(self) -> None:
        """An automatic box reports that after each check, and goes on as soon as it can."""
        self.bench.preflight.unfit = BoxUnfit("The box cannot write in /opt.")
        for _ in range(3):
            self.find(NEW, automatic=True)
            status = self.bench.status
            self.assertEqual((status.stage, status.trouble), (Stage.IDLE, status.message))
            self.assertEqual(status.message, "The box cannot write in /opt.")
        self.assertEqual((self.on_disk().attempts, self.on_disk().delay), ((), None))
        self.bench.preflight.unfit = None
        self.find(NEW, automatic=True)
        self.assertEqual(self.bench.steps.names[-1], "fetch")
        self.assertIsNone(self.bench.status.trouble)

    def test_room(self) -> None:
        """After a try that lacked room, the next one waits for as much."""
        self.click("unpack")
        self.bench.preflight.unfit = BoxUnfit("It needs 5 MiB.", room=5 << 20)
        self.succeed()
        self.assertNotIn("install", self.bench.steps.names)
        self.assert_not_blocked("It needs 5 MiB.")
        self.find(NEW, automatic=True)
        self.assertEqual(self.bench.preflight.room, 5 << 20)
        self.assertEqual(self.bench.status.message, "It needs 5 MiB.")
        self.assertEqual(self.bench.steps.names.count("unpack"), 1)
        self.bench.preflight.unfit = None
        self.find(NEW, automatic=True)
        self.assertEqual(self.bench.steps.names[-1], "fetch")

    def test_at_fault(self) -> None:
        """A script that finds the box at fault is tried again after longer and longer pauses."""
        for number in range(10):
            self.find(NEW, automatic=True)
            self.proceed("install")
            self.bench.steps.fail(BoxAtFault("Make room.", touched=False))
            self.assert_not_blocked("Make room.")
            pause = min(3600 * 2**number, 24 * 3600)
            self.bench.clock.advance(pause - 1)
            self.find(NEW, automatic=True)
            self.assertIn(
                f"Release {NEW} is not installed: Make room. The box tries again later",
                self.bench.status.message,
            )
            self.assertEqual(self.bench.steps.names[-1], "newest")
            self.bench.clock.advance(1)
        self.find(NEW, automatic=True)
        self.assertEqual(self.bench.steps.names[-1], "newest", "ten tries are enough")
        self.assert_works_again()

    def test_found_afterwards(self) -> None:
        """After a failure the box is measured, and the script's output searched for a shortage."""
        full = BoxUnfit("The box cannot write in /opt.", code="no-room")
        short = BoxUnfit("It was short.", code="busy")
        for found, fault, shortage in ((full, full, None), (short, None, short)):
            with self.subTest(fault=fault):
                self.bench.preflight.fault, self.bench.installer.shortage = fault, shortage
                self.click("install")
                self.bench.steps.fail(InstallFailed("It ended with 1."))
                self.assert_not_blocked(f"It ended with 1. {found}")
                self.assertEqual(self.on_disk().attempts[-1].code, found.code)

    def test_found_by_the_next_agent(self) -> None:
        """An agent that was started meanwhile does the same."""
        for status, reason in (
            (
                1,
                f"install_update.sh ended with exit status 1. See {self.folder}/box_update.log. "
                "The box ran out of memory.",
            ),
            (75, "The box says so."),
        ):
            with self.subTest(status=status):
                self.click("install")
                self.bench.restart()
                self.bench.preflight.fault = BoxUnfit("The box ran out of memory.")
                self.bench.steps.succeed(status)
                self.assert_not_blocked(reason)

    def test_not_started(self) -> None:
        """A release whose script never ran is postponed."""
        self.click("install")
        self.bench.steps.fail(NotStarted("It was not started."))
        self.assert_not_blocked("It was not started.")
        self.find(NEW, automatic=True)
        self.assertIn("It was not started. The box tries again later", self.bench.status.message)

    def test_success(self) -> None:
        """After the installation nothing is postponed any more."""
        self.test_not_started()
        self.click("reboot")
        self.bench.set_installed(NEW)
        self.bench.restart("second boot")
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertIsNone(self.on_disk().delay)

    def test_unfit_after_interruption(self) -> None:
        """An interrupted installation goes on as soon as the box is able to."""
        self.click("install")
        self.bench.restart()
        self.bench.preflight.unfit = BoxUnfit("The box cannot write in /opt.")
        for _ in range(MAX_TRIES + 1):
            self.bench.steps.succeed()
            self.assertEqual(self.bench.status.message, "The box cannot write in /opt.")
            self.bench.clock.advance(60)
        self.bench.preflight.unfit = None
        self.proceed("install")
        self.assertEqual(self.on_disk().tries, 2)


class InhibitorTests(UpdaterCase):
    """A measurement that must not be disturbed."""

    def setUp(self) -> None:
        super().setUp()
        self.inhibit_file = self.bench.config.inhibit_file

    def hold(self, until: str = "unpack") -> None:
        """Let a measurement begin during a step, which succeeds."""
        self.click(until)
        self.inhibit_file.touch()
        self.succeed()

    def test_held(self) -> None:
        """The update waits for its end before it changes the box, and says so."""
        self.hold()
        status = self.bench.status
        self.assertEqual((status.stage, self.on_disk().stage), (Stage.UNPACKING, Stage.UNPACKING))
        self.assertIn("Waiting for a measurement to end;", status.message)
        self.assertEqual(self.bench.steps.names[-1], "unpack")
        self.inhibit_file.unlink()
        self.bench.clock.advance(5)
        self.assertEqual(self.bench.steps.begun, STEPS[:-1])
        self.assertIn("Installing the new release", self.bench.status.message)
        self.succeed()
        self.assertEqual(self.bench.steps.begun, STEPS)

    def test_bounded(self) -> None:
        """The update does not wait for ever."""
        self.hold()
        self.bench.clock.pump([5.0] * 719)
        self.assertEqual(self.bench.status.stage, Stage.UNPACKING)
        self.bench.clock.advance(5)
        self.assertEqual(self.bench.status.stage, Stage.INSTALLING)

    def test_check_meanwhile(self) -> None:
        """A check meanwhile does not hide this message."""
        self.hold()
        message = self.bench.status.message
        self.bench.updater.check()
        self.bench.steps.succeed(NEWER)
        self.assertEqual(self.bench.status.message, message)

    def test_stopped(self) -> None:
        """If the agent is stopped meanwhile, the next one begins the update again."""
        self.hold()
        self.bench.updater.stopService()
        self.assertEqual(self.bench.clock.getDelayedCalls(), [])
        self.inhibit_file.unlink()
        self.bench.restart()
        self.proceed("reboot")
        self.assertEqual(self.bench.steps.begun, STEPS)

    def test_begun(self) -> None:
        """An installation that is under way is not interrupted."""
        self.hold("install")
        self.assertEqual(self.bench.steps.begun, STEPS)

    def test_resumed(self) -> None:
        """An installation that a power cut interrupted waits, too."""
        self.click("install")
        self.inhibit_file.touch()
        self.bench.restart("another boot")
        self.bench.steps.succeed(None)
        self.bench.clock.advance(0)
        self.proceed("unpack")
        self.succeed()
        self.assertIn("Waiting for a measurement to end;", self.bench.status.message)
        self.inhibit_file.unlink()
        self.bench.clock.advance(5)
        self.assertEqual(self.bench.steps.names[-1], "install")
