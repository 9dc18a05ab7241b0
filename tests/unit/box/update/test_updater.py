"""The journey of one update: its order, its failures, and where it goes on when interrupted."""

import errno
import json
import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.state.journal import Journal
from opq_twisted.box.state.records import Entry, Release, Stage
from opq_twisted.box.state.status import Progress
from opq_twisted.box.state.versions import Installed
from opq_twisted.box.update.recovery import MAX_TRIES
from opq_twisted.box.window import DailyWindow
from opq_twisted.common.errors import (
    ArchiveRefused,
    BoxAtFault,
    BoxUnfit,
    ClockBehind,
    DownloadFailed,
    InstallFailed,
    NoRoom,
    NotStarted,
    OlderCopy,
    PiecesDiffer,
    RebootFailed,
    ServerFailed,
    Stale,
    UnsignedRefused,
    Untrusted,
    UpdateInProgress,
)
from opq_twisted.trust.offer import Offer, Rollout
from tests.helpers.box_fakes import NEW, NEWER, OLD, Begun, Bench, logged
from tests.helpers.failing_disk import counting

#: The steps from the click to the reboot, with the stage that the journal tells of by then.
JOURNEY = [
    Begun("newest", "checking"),
    Begun("fetch", "downloading"),
    Begun("verify", "verifying"),
    Begun("unpack", "unpacking"),
    Begun("forget", "unpacking"),
    Begun("install", "installing"),
    Begun("reboot", "rebooting"),
]


#: Seconds.
DAY = 24 * 3600.0


class UpdaterCase(SynchronousTestCase):
    """An updater whose steps do what the test says."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.bench = Bench(self.folder).start()

    def travel(self, until: str) -> None:
        """Let each step succeed, from where the journey is, until one is under way."""
        while self.bench.steps.names[-1] != until:
            self.succeed()

    def succeed(self) -> None:
        """Let the step that is under way succeed."""
        self.bench.steps.succeed(NEW if self.bench.steps.names[-1] == "newest" else None)
        self.bench.clock.advance(0)

    def click(self, until: str = "newest") -> None:
        """Set out, and travel until a step is under way."""
        self.bench.updater.begin()
        self.travel(until)

    def refuse_reboot(self, words: str) -> None:
        """Let the box not be rebooted, however often it is asked."""
        for pause in (2, 10, 0):
            self.bench.steps.fail(RebootFailed(words))
            self.bench.clock.advance(pause)

    def fail_with(self, error: Exception) -> None:
        """Let the step that is under way fail."""
        if isinstance(error, RebootFailed):
            self.refuse_reboot(str(error))
        else:
            self.bench.steps.fail(error)

    def on_disk(self) -> Entry:
        """What another agent would read."""
        return Journal(self.bench.journal_path, "").entry

    def change_journal(self, **changes: Any) -> None:
        content = json.loads(self.bench.journal_path.read_text())
        self.bench.journal_path.write_text(json.dumps({**content, **changes}))

    def fill_disk(self) -> None:
        """Let the next entry find no room; those after it do."""
        self.enterContext(counting(1))

    def assert_failed(self, reason: str) -> None:
        """The journey has ended with the reason, on the page and in the journal."""
        status = self.bench.status
        self.assertEqual((status.stage, status.message), (Stage.FAILED, reason))
        self.assertIsNone(status.progress)
        entry = self.on_disk()
        self.assertEqual((entry.stage, entry.tries), (Stage.FAILED, 0))
        self.assertIsNone(entry.release)
        self.assertEqual(entry.awaited is None, entry.after_reboot is None)
        self.assertEqual(entry.attempts[-1], status.last_attempt)
        self.assertEqual(
            (entry.attempts[-1].outcome, entry.attempts[-1].reason), ("failed", reason)
        )

    def assert_works_again(self) -> None:
        """A new click goes all the way."""
        before = len(self.bench.steps.begun)
        self.click("reboot")
        self.assertEqual(self.bench.steps.begun[before:], JOURNEY)


class JourneyTests(UpdaterCase):
    """A journey that nothing interrupts."""

    def test_nothing_to_do(self) -> None:
        """An agent that starts at rest stays at rest."""
        self.assertEqual(self.bench.steps.begun, [])
        self.assertEqual(self.bench.status.installed, OLD)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)

    def test_written_before_begun(self) -> None:
        """The journal says which step comes before the step begins."""
        self.click("reboot")
        self.assertEqual(self.bench.steps.begun, JOURNEY)
        entry = self.on_disk()
        self.assertEqual(entry.release, Release(NEW, 10, {"sha256": "ab" * 32}))
        self.assertEqual(entry.started, NEW)

    def test_stages_shown(self) -> None:
        """Others see each stage, once the journal has it."""
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

    def test_progress(self) -> None:
        """The progress of the download is shown while it lasts."""
        self.click("fetch")
        self.bench.downloader.report(Progress(5, 10, 1.0))
        self.assertEqual(self.bench.status.progress, Progress(5, 10, 1.0))
        self.bench.steps.succeed()
        self.assertIsNone(self.bench.status.progress)

    def test_pauses(self) -> None:
        """Why a download pauses is shown, until bytes come again."""
        self.click("fetch")
        self.bench.downloader.say("The server is busy. The box asks again in 7 seconds.")
        status = self.bench.status
        self.assertEqual(status.stage, Stage.DOWNLOADING)
        self.assertEqual(status.message, "The server is busy. The box asks again in 7 seconds.")
        self.bench.downloader.report(Progress(5, 10, 1.0))
        self.assertEqual(self.bench.status.message, "Downloading the new release.")

    def test_part_kept(self) -> None:
        """Before a download all goes but the installed release, and a part of what is fetched."""
        self.click("fetch")
        self.assertEqual(self.bench.archives.kept, ({OLD, NEW}, NEW))
        self.assertEqual(self.bench.downloader.asked, Release(NEW))

    def test_archive_closed(self) -> None:
        """The archive that was verified is the one that is unpacked, and is closed then."""
        self.click("unpack")
        self.assertFalse(self.bench.archives.archive.closed)
        self.succeed()
        self.assertTrue(self.bench.archives.archive.closed)

    def test_older_copy(self) -> None:
        """An update that begins by itself and finds an older copy looks again in a minute."""
        self.bench.updater.begin(automatic=True)
        self.bench.steps.fail(OlderCopy("The copy is an older one."))
        status = self.bench.status
        self.assertEqual(
            (status.stage, status.message), (Stage.CHECKING, "The copy is an older one.")
        )
        self.bench.clock.advance(59.5)
        self.assertEqual(self.bench.steps.names, ["newest"])
        self.bench.clock.advance(0.5)
        self.assertEqual(self.bench.steps.names, ["newest", "newest"])
        self.travel("fetch")

    def test_busy_server(self) -> None:
        """So does one whose server is busy, not before that wants to be asked again."""
        self.bench.updater.begin(automatic=True)
        for asked, pause in ((400.0, 400), (3000.0, 600)):
            before = len(self.bench.steps.names)
            self.bench.steps.fail(ServerFailed("The server is busy.", retry_after=asked))
            self.assertEqual(self.bench.status.message, "The server is busy.")
            self.bench.clock.advance(pause - 0.5)
            self.assertEqual(len(self.bench.steps.names), before)
            self.bench.clock.advance(0.5)
            self.assertEqual(len(self.bench.steps.names), before + 1)
        self.travel("fetch")

    def test_only_older_copies(self) -> None:
        """Where that goes on the update fails, with nothing fetched."""
        self.bench.updater.begin(automatic=True)
        for pause in (60, 120, 0):
            self.bench.steps.fail(OlderCopy("The copy is an older one."))
            self.bench.clock.advance(pause)
        self.assert_failed("The copy is an older one.")
        self.assertEqual(self.bench.steps.names, ["newest"] * 3)

    def test_older_copy_after_a_click(self) -> None:
        """Whoever clicked is told at once."""
        self.click("newest")
        self.bench.steps.fail(OlderCopy("The copy is an older one."))
        self.assert_failed("The copy is an older one.")

    def test_delay(self) -> None:
        """A delay passes between the check and the download."""
        self.bench.updater.begin(delay=300)
        self.bench.steps.succeed(NEW)
        self.bench.clock.advance(299)
        self.assertEqual(self.bench.steps.names, ["newest"])
        self.assertEqual(self.bench.status.stage, Stage.CHECKING)
        self.bench.clock.advance(1)
        self.assertEqual(self.bench.steps.names, ["newest", "fetch"])

    def test_second_click(self) -> None:
        """A click during a journey begins nothing, and is told the stage."""
        self.click("fetch")
        with self.assertRaisesRegex(UpdateInProgress, "under way already: downloading"):
            self.bench.updater.begin()
        self.assertEqual(self.bench.steps.names, ["newest", "fetch"])
        self.travel("reboot")

    def test_up_to_date(self) -> None:
        """A box that has the newest release, or a newer one, installs nothing."""
        older = (
            f"The box is up to date: release {OLD - 1}, which is offered, is older than the one "
            "installed."
        )
        reasons = {OLD: "The box is up to date.", OLD - 1: older}
        for number, (newest, reason) in enumerate(reasons.items(), 1):
            with self.subTest(newest=newest):
                self.bench.updater.begin()
                self.bench.steps.succeed(newest)
                self.assertEqual(self.bench.status.stage, Stage.IDLE)
                self.assertEqual(self.bench.status.message, reason)
                entry = Entry(boot_id="first boot", started=NEW, attempt=number, tries=1)
                self.assertEqual(self.on_disk(), entry)
        self.assert_works_again()

    def test_no_update(self) -> None:
        """A server may have no update."""
        self.bench.updater.begin()
        self.bench.steps.succeed(None)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(self.bench.status.message, "The update server has no update.")
        self.assert_works_again()

    def test_nothing_installed(self) -> None:
        """A box that does not know what it runs takes what there is."""
        self.bench.version_file.unlink()
        self.bench.restart()
        self.assertIsNone(self.bench.status.installed)
        self.assert_works_again()

    def test_look(self) -> None:
        """To look is to ask, and to tell what is there and since when that is known."""
        looked = self.bench.updater.check()
        self.bench.clock.advance(7)
        self.bench.steps.succeed(NEW)
        self.assertEqual(self.successResultOf(looked), NEW)
        status = self.bench.status
        self.assertEqual((status.available, status.last_check), (NEW, NEW + 7))
        self.assertEqual(status.message, f"Release {NEW} is available.")

    def test_look_fails(self) -> None:
        """A look that fails says why; what was available before may still be."""
        self.bench.board.publish(available=NEW)
        looked = self.bench.updater.check()
        self.bench.steps.fail(ServerFailed("Nobody is there."))
        self.failureResultOf(looked, ServerFailed)
        status = self.bench.status
        self.assertEqual((status.available, status.message), (NEW, "Nobody is there."))
        self.assertEqual(status.last_check, NEW)


class TrustTests(UpdaterCase):
    """What a box does not install."""

    def make(self, **settings: Any) -> None:
        self.bench = Bench(self.folder, **settings).start()

    def test_unsigned(self) -> None:
        """Without a word in its configuration a box installs nothing unsigned."""
        self.make(allow_unsigned=False)
        self.bench.updater.begin()
        self.bench.steps.succeed(NEW)
        self.assertEqual(self.bench.steps.names, ["newest"])
        self.assertIn('set "allow_unsigned": true', self.bench.status.message)
        self.assert_failed(self.bench.status.message)
        self.assertFalse(self.bench.status.unsigned)

    def test_look(self) -> None:
        """Such a release is none that a look finds, and does not begin by itself."""
        self.make(allow_unsigned=False)
        looked = self.bench.updater.check()
        self.bench.steps.succeed(NEW)
        self.failureResultOf(looked, UnsignedRefused)
        status = self.bench.status
        self.assertEqual((status.available, status.update_available), (NEW, False))
        self.assertIn("not signed for this box", status.trouble or "")
        self.assertEqual(status.trouble, status.message)
        self.assertFalse(self.bench.updater.is_due)
        self.assertEqual(self.bench.updater.history, ((), ()))

    def test_allowed(self) -> None:
        """A box that installs unsigned releases says so."""
        self.assertTrue(self.bench.status.unsigned)

    def test_trusted_root(self) -> None:
        """A box that was given a trusted root since it started says that it is not unsigned."""
        (self.folder / "root.json").write_text("{}")
        self.bench.updater.begin()
        self.bench.steps.succeed(Offer(NEW, signed=True))
        self.bench.clock.advance(0)
        self.travel("install")
        self.assertFalse(self.bench.status.unsigned)

    def test_root_comes_meanwhile(self) -> None:
        """From the moment that there is a root, nothing that was offered before is installed."""
        for step in ("newest", "fetch", "verify"):
            with self.subTest(step=step):
                self.click(step)
                root = self.folder / "root.json"
                root.write_text("{}")
                while not self.bench.status.stage.at_rest:
                    self.succeed()
                self.assertNotIn("unpack", self.bench.steps.names)
                self.assert_failed(
                    "The box has got a trusted root since its last check, and the offered "
                    "release is not signed. Check again."
                )
                root.unlink()

    def test_up_to_date_anyway(self) -> None:
        """A box that is up to date has nothing to refuse."""
        self.make(allow_unsigned=False)
        self.bench.updater.begin()
        self.bench.steps.succeed(OLD)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)

    def test_refused(self) -> None:
        """A release that failed is not tried again by itself, but is by a click."""
        self.click("install")
        self.bench.steps.fail(InstallFailed("It does not work here."))
        self.bench.updater.begin(automatic=True)
        self.bench.steps.succeed(NEW)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(
            self.bench.status.message, f"Release {NEW} is refused: It does not work here."
        )
        self.assert_works_again()

    def test_pieces_differ(self) -> None:
        """Pieces that do not fit together are fetched anew, once, and then put off."""
        self.click("verify")
        self.bench.steps.fail(PiecesDiffer("What came has another SHA-256."))
        self.assertEqual(self.bench.steps.begun[-1], Begun("fetch", "downloading"))
        self.travel("reboot")
        self.assertIsNone(self.on_disk().delay)
        self.setUp()
        self.click("verify")
        for _ in range(2):
            self.assertEqual(self.bench.steps.names[-1], "verify")
            self.bench.steps.fail(PiecesDiffer("What came has another SHA-256."))
            if self.bench.steps.names[-1] == "fetch":
                self.succeed()
        self.assert_failed("What came has another SHA-256.")
        self.assertEqual(self.bench.steps.names.count("fetch"), 2)
        self.assertIsNotNone(self.on_disk().delay)

    def test_put_off(self) -> None:
        """What came as something else is not fetched again at each check, but is by a click."""
        self.click("verify")
        self.bench.steps.fail(DownloadFailed("Another SHA-256."))
        self.bench.updater.begin(automatic=True)
        self.bench.steps.succeed(NEW)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertIn("fetches it again later", self.bench.status.message)
        self.bench.clock.advance(3600)
        self.bench.updater.begin(automatic=True)
        self.bench.steps.succeed(NEW)
        self.bench.clock.advance(0)
        self.travel("unpack")
        self.assertIsNone(self.on_disk().delay)
        self.bench.steps.fail(NoRoom("Make room."))
        self.assert_works_again()

    def test_next_release(self) -> None:
        """The release after a refused one is tried."""
        self.click("install")
        self.bench.steps.fail(InstallFailed("It does not work here."))
        self.bench.updater.begin(automatic=True)
        self.bench.steps.succeed(NEWER)
        self.bench.clock.advance(0)
        self.assertEqual(self.bench.steps.names[-1], "fetch")


class ShutWindowTests(UpdaterCase):
    """A download that outlasts the window in which the box may install."""

    def begin(self, automatic: bool) -> None:
        now = datetime.fromtimestamp(NEW)
        window = DailyWindow((now - timedelta(hours=1)).time(), (now + timedelta(hours=1)).time())
        self.bench = Bench(self.folder, install="automatic", window=window).start()
        self.bench.updater.begin(automatic=automatic)
        self.travel("verify")
        self.bench.clock.advance(3601)
        self.succeed()

    def test_by_itself(self) -> None:
        """What came is kept for the next time that the window is open."""
        self.begin(automatic=True)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertIn("is available; it is installed between", self.bench.status.message)
        self.assertTrue(self.bench.archives.archive.closed)
        self.assertEqual(self.bench.steps.names[-1], "verify")
        self.assert_works_again()

    def test_clicked(self) -> None:
        """Who clicks wants it now."""
        self.begin(automatic=False)
        self.assertEqual(self.bench.steps.names[-1], "unpack")


class OfferTests(UpdaterCase):
    """What a signed offer says is what happens."""

    def find(self, offer: Offer | None, automatic: bool = False) -> None:
        """Set out, and find an offer."""
        self.bench.updater.begin(automatic=automatic)
        self.bench.steps.succeed(offer)
        self.bench.clock.advance(0)

    def assert_taken(self, offer: Offer, automatic: bool = False) -> None:
        """The box downloads what is offered."""
        self.find(offer, automatic)
        self.assertTrue(self.bench.status.update_available)
        self.assertEqual(self.bench.steps.names[-2:], ["newest", "fetch"])
        self.assertEqual(
            self.bench.downloader.asked, Release(offer.version, offer.size, offer.hashes)
        )

    def assert_left(self, offer: Offer | None, message: str, automatic: bool = False) -> None:
        """The box does not, and says why."""
        self.find(offer, automatic)
        self.assertEqual(self.bench.steps.names[-1], "newest")
        status = self.bench.status
        self.assertEqual((status.stage, status.message), (Stage.IDLE, message))
        self.assertFalse(self.bench.updater.is_due)

    def test_promise(self) -> None:
        """The size and all the hashes that were signed are what the download is held to."""
        self.assert_taken(Offer(NEW, 1234, {"sha256": "cd" * 32, "sha512": "ef" * 64}))

    def test_older_than_image(self) -> None:
        """A release older than the image's is not installed, whatever became of the box since."""
        self.bench.image_file.write_text(f"{NEWER}\n")
        self.assert_left(
            Offer(NEW),
            f"Release {NEW} is not installed: it is older than {NEWER}, which the box was made "
            "with.",
        )
        self.assertEqual(self.bench.status.available, NEW)
        self.assertFalse(self.bench.status.update_available)

    def test_as_old_as_image(self) -> None:
        """The release of the image itself is, on a box that lost it."""
        self.bench.version_file.unlink()
        self.bench.image_file.write_text(f"{NEW}\n")
        self.bench.restart()
        self.assert_taken(Offer(NEW))

    def test_older_than_installed(self) -> None:
        """Nor is a release older than the installed one, by a click either."""
        reason = (
            f"The box is up to date: release {OLD - 1}, which is offered, is older than the one "
            "installed."
        )
        self.assert_left(Offer(OLD - 1), reason)
        self.assertFalse(self.bench.status.update_available)

    def test_allow_downgrade(self) -> None:
        """Whoever holds the release key may take the boxes back, even behind their image."""
        self.bench.image_file.write_text(f"{NEWER}\n")
        self.assert_taken(Offer(OLD - 1, allow_downgrade=True), automatic=True)

    def test_downgrade_ends(self) -> None:
        """A box that was taken back has what it is offered, and does not begin again."""
        self.bench.image_file.write_text(f"{NEWER}\n")
        self.assert_left(Offer(OLD, allow_downgrade=True), "The box is up to date.")

    def test_unproven(self) -> None:
        """What is in place and waits for its reboot is no reason to take an older one."""
        self.bench.set_installed(NEW)
        self.assert_left(
            Offer(NEW), f"Release {NEW} is installed, and waits for a reboot.", automatic=True
        )

    def test_not_its_turn(self) -> None:
        """A box whose turn it is not shows the release, and waits."""
        # The number of box 7 is 5228, as test_trust has it.
        self.assert_left(
            Offer(NEW, rollout=Rollout(52, "x1")),
            f"Release {NEW} comes to this box later: it reaches the boxes bit by bit. Click on "
            "Update Box to have it now.",
            automatic=True,
        )
        self.assertTrue(self.bench.status.update_available)
        self.assertEqual(self.on_disk().attempts, ())

    def test_its_turn(self) -> None:
        """When the rollout has grown it is taken."""
        self.find(Offer(NEW, rollout=Rollout(52, "x1")), automatic=True)
        self.assert_taken(Offer(NEW, rollout=Rollout(53, "x1")), automatic=True)

    def test_click_comes_first(self) -> None:
        """A click does not wait for the box's turn."""
        self.assert_taken(Offer(NEW, rollout=Rollout(0, "x1")))

    def test_critical(self) -> None:
        """A critical release does not either."""
        self.assert_taken(Offer(NEW, critical=True, rollout=Rollout(0, "x1")), automatic=True)

    def test_critical_and_refused(self) -> None:
        """But one that failed on this box is not tried for ever."""
        self.click("install")
        self.bench.steps.fail(InstallFailed("It does not work here."))
        reason = f"Release {NEW} is refused: It does not work here."
        self.assert_left(Offer(NEW, critical=True), reason, automatic=True)

    def test_built_anew(self) -> None:
        """A release whose signed hash has changed is another one, and is tried."""
        self.click("install")
        self.bench.steps.fail(InstallFailed("It does not work here."))
        self.assert_taken(Offer(NEW, 10, {"sha256": "cd" * 32}), automatic=True)

    def test_nothing_in_channel(self) -> None:
        """A channel that is not signed is named, for its name may be wrong."""
        self.bench = Bench(self.folder, channel="beta").start()
        (self.folder / "root.json").write_text("{}")
        self.assert_left(None, "The update server has no update in the channel beta.")
        self.assertFalse(self.bench.status.update_available)

    def look(self, offer: Offer | None) -> None:
        looked = self.bench.updater.check()
        self.bench.steps.succeed(offer)
        self.successResultOf(looked)

    def test_is_due(self) -> None:
        """What was found last is due when nothing keeps the box from it."""
        self.assertFalse(self.bench.updater.is_due)
        for offer, due, available in (
            (Offer(NEW), True, True),
            (Offer(NEW, rollout=Rollout(0, "x1")), False, False),
            (Offer(NEW, rollout=Rollout(52, "x1")), False, True),
            (Offer(NEW, rollout=Rollout(100, "x1")), True, True),
            (Offer(OLD), False, False),
            (Offer(OLD - 1), False, False),
            (Offer(OLD - 1, allow_downgrade=True), True, True),
            (None, False, False),
        ):
            with self.subTest(offer=offer):
                self.look(offer)
                self.assertEqual(self.bench.updater.is_due, due)
                self.assertEqual(self.bench.status.update_available, available)

    def assert_shown(self, available: int | None, update_available: bool, message: str) -> None:
        """The page shows this after a look."""
        status = self.bench.status
        self.assertEqual((status.available, status.update_available), (available, update_available))
        self.assertIn(message, status.message)

    def test_before_its_turn(self) -> None:
        """A box whose turn has not come takes the release before by itself, a click the newest."""
        before = Offer(NEW, 99, {"sha256": "cd" * 32})
        offer = Offer(NEWER, rollout=Rollout(1, "x1"), before=before)
        for automatic, taken in ((True, before), (False, offer)):
            with self.subTest(automatic=automatic):
                self.bench = Bench(self.folder / str(automatic), install="automatic").start()
                self.look(offer)
                self.assertTrue(self.bench.updater.is_due)
                self.assertEqual(self.bench.status.message, f"Release {NEW} is available.")
                self.find(offer, automatic)
                self.assertEqual(self.bench.steps.names[-1], "fetch")
                self.assertEqual(
                    self.bench.downloader.asked, Release(taken.version, taken.size, taken.hashes)
                )
                self.assertEqual(self.bench.status.available, taken.version)

    def test_has_the_one_before(self) -> None:
        """A box with the release before waits for its turn; with the newest it is up to date."""
        offer = Offer(NEWER, rollout=Rollout(1, "x1"), before=Offer(NEW))
        for installed, message in (
            (NEW, f"Release {NEWER} comes to this box later"),
            (NEWER, "The box is up to date."),
        ):
            self.bench.set_installed(installed)
            self.bench.restart()
            self.look(offer)
            self.assertFalse(self.bench.updater.is_due)
            self.assert_shown(NEWER, installed == NEW, message)

    def test_held_back(self) -> None:
        """A release that is held back is shown to nobody, and no click is asked for."""
        self.look(Offer(NEW, rollout=Rollout(0, "x1")))
        self.assert_shown(None, False, f"Release {NEW} comes to this box later: it is held back")
        self.assertNotIn("Click", self.bench.status.message)

    def test_held_back_after_another(self) -> None:
        """The release before is shown in its place, and is what a click installs."""
        before = Offer(NEW, 99, {"sha256": "cd" * 32})
        offer = Offer(NEWER, rollout=Rollout(0, "x1"), before=before)
        self.look(offer)
        self.assert_shown(NEW, True, f"Release {NEW} is available.")
        self.find(offer)
        self.assertEqual(self.bench.downloader.asked, Release(NEW, 99, {"sha256": "cd" * 32}))

    def test_look_says_why_not(self) -> None:
        """A look says what an update by itself would."""
        for offer, message in (
            (Offer(NEW, rollout=Rollout(0, "x1")), f"Release {NEW} comes to this box later"),
            (Offer(NEW), f"Release {NEW} is available."),
            (Offer(OLD), "The box is up to date."),
        ):
            self.look(offer)
            self.assertIn(message, self.bench.status.message)

    def test_look_says_when(self) -> None:
        """A look says when a release is installed, where that is not a matter of minutes."""
        window = DailyWindow.parse("02:00-04:00")
        for settings, message in (
            (
                {"install": "automatic", "window": window},
                f"Release {NEW} is available; it is installed between 02:00 and 04:00.",
            ),
            ({"install": "automatic"}, f"Release {NEW} is available."),
            ({"install": "click", "window": window}, f"Release {NEW} is available."),
        ):
            self.bench = Bench(self.folder, **settings).start()
            self.look(Offer(NEW))
            self.assertEqual(self.bench.status.message, message)
            self.look(Offer(OLD))
            self.assertEqual(self.bench.status.message, "The box is up to date.")

    def test_failed_look(self) -> None:
        """A look that fails takes nothing back."""
        self.look(Offer(NEW))
        for error in (Stale("It has expired."), Untrusted("It is another."), ClockBehind("Wait.")):
            looked = self.bench.updater.check()
            self.bench.steps.fail(error)
            self.failureResultOf(looked, type(error))
            self.assertEqual(self.bench.status.message, str(error))
            self.assertTrue(self.bench.status.update_available)

    def test_look_without_disk(self) -> None:
        """A look that the disk lets down says so."""
        for number, message in (
            (errno.ENOSPC, "The box's disk is full. Make room, and try again."),
            (errno.EROFS, "The box's disk fails: Read-only file system."),
            (errno.EMFILE, "The box has too much to do: Too many open files. Try again later."),
        ):
            looked = self.bench.updater.check()
            self.bench.steps.fail(OSError(number, os.strerror(number)))
            self.failureResultOf(looked, OSError)
            self.assertEqual(self.bench.status.message, message)

    def test_failed_update(self) -> None:
        """An update that can believe nothing ends with the reason, and the next click works."""
        for error in (Stale("It has expired."), Untrusted("It is another."), ClockBehind("Wait.")):
            self.click()
            self.bench.steps.fail(error)
            self.assert_failed(str(error))
            self.assertEqual(self.on_disk().refused, ())
        self.assert_works_again()


class FailureTests(UpdaterCase):
    """Whatever fails is told, and the next click works."""

    def test_each_step(self) -> None:
        """The failure of any step ends the journey with its reason."""
        for step, error in (
            ("newest", ServerFailed("Nobody is there.")),
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

    def test_what_is_refused(self) -> None:
        """Only what the release itself is to blame for refuses it."""
        for step, error, refused in (
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

    def test_disk(self) -> None:
        """What a disk can do is told in a sentence."""
        for number, reason in (
            (errno.ENOSPC, "The box's disk is full. Make room, and try again."),
            (errno.EROFS, "The box's disk fails: Read-only file system."),
            (errno.EMFILE, "The box has too much to do: Too many open files. Try again later."),
        ):
            with self.subTest(number=number):
                self.click("verify")
                self.bench.steps.fail(OSError(number, os.strerror(number)))
                self.assert_failed(reason)
                self.assert_works_again()
                self.refuse_reboot("Reboot by hand.")

    def test_unforeseen(self) -> None:
        """What nobody foresaw is logged with its traceback, and is no dead agent either."""
        self.click("verify")
        self.bench.steps.fail(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assert_failed("The agent failed; its log says how.")
        self.assert_works_again()

    def test_journal_at_each_stage(self) -> None:
        """A stage that cannot be written down does not begin; there is a reason, and a way on."""
        for previous, step in zip([None, *JOURNEY], JOURNEY, strict=False):
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
        """The archive does not stay open when it is not unpacked, or cannot be."""
        self.click("verify")
        self.fill_disk()
        self.succeed()
        self.assertTrue(self.bench.archives.archive.closed)
        self.click("unpack")
        self.bench.steps.fail(ArchiveRefused("It has a link."))
        self.assertTrue(self.bench.archives.archive.closed)

    def test_journal_of_the_end(self) -> None:
        """An end that cannot be written down is told on the page all the same."""
        self.click("install")
        self.bench.journal_path.unlink()
        self.bench.journal_path.mkdir()
        said = logged(self)
        self.bench.steps.fail(InstallFailed("It ended with 1."))
        for what in ("The refused release", "The end of the update"):
            self.assertTrue(any(f"{what} cannot be written down" in line for line in said), said)
        status = self.bench.status
        self.assertEqual((status.stage, status.message), (Stage.FAILED, "It ended with 1."))
        self.bench.journal_path.rmdir()
        self.assert_works_again()

    def test_journal_lost(self) -> None:
        """A journal that was damaged is told of, and updates go on."""
        self.bench.journal_path.write_bytes(b"garbage")
        self.bench.restart()
        status = self.bench.status
        self.assertEqual(status.stage, Stage.IDLE)
        self.assertIn("record of earlier updates was not understood", status.message)
        (attempt,) = self.on_disk().attempts
        self.assertEqual((attempt.outcome, attempt.reason), ("failed", status.message))
        self.assertEqual(status.last_attempt, attempt)
        self.bench.restart()
        self.assertEqual(self.on_disk().attempts, (attempt,))
        self.assert_works_again()

    def test_reboot_does_not_come(self) -> None:
        """A box that was asked to reboot three times, and does not, says so."""
        self.click("reboot")
        for asked in range(1, 4):
            self.bench.steps.succeed()
            self.bench.clock.advance(599)
            self.assertEqual(self.bench.status.stage, Stage.REBOOTING)
            self.assertEqual(self.bench.steps.names.count("reboot"), asked)
            self.bench.clock.pump([1, 10])
        self.assert_failed("The box was asked to reboot, but did not. Reboot it by hand.")
        self.assert_works_again()

    def test_rebooted_by_hand(self) -> None:
        """What somebody reboots by hand goes on from there."""
        self.click("reboot")
        self.refuse_reboot("Reboot it by hand.")
        self.bench.restart()
        self.assertEqual(self.bench.status.stage, Stage.FAILED)
        self.bench.set_installed(NEW)
        self.bench.restart("second boot")
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(self.bench.status.message, f"The box runs release {NEW}.")
        outcomes = [(attempt.id, attempt.outcome) for attempt in self.on_disk().attempts]
        self.assertEqual(outcomes, [(1, "failed"), (1, "updated")])

    def test_clicked_instead(self) -> None:
        """A click makes another attempt; as long as that fetches nothing the first one counts."""
        for fails in (True, False):
            with self.subTest(fails=fails):
                self.bench = Bench(self.folder).start()
                self.bench.journal_path.unlink(missing_ok=True)
                self.bench.restart()
                self.click("reboot")
                self.refuse_reboot("Reboot it by hand.")
                self.click("newest")
                if fails:
                    self.bench.steps.fail(ServerFailed("Nobody is there."))
                self.bench.set_installed(NEW)
                self.bench.restart("second boot")
                self.assertEqual(self.bench.status.message, f"The box runs release {NEW}.")
                self.assertIsNone(self.on_disk().after_reboot)
                self.bench.set_installed(OLD)

    def test_mended_by_hand(self) -> None:
        """What somebody installed by hand before the reboot stays."""
        self.click("reboot")
        self.refuse_reboot("Reboot it by hand.")
        self.bench.set_installed(NEWER)
        self.bench.restart("second boot")
        self.assertEqual(self.bench.steps.begun, [])
        self.assertEqual((self.on_disk().stage, self.bench.status.message), (Stage.IDLE, ""))

    def test_fetched_instead(self) -> None:
        """What was fetched after it is what counts then."""
        self.click("reboot")
        self.refuse_reboot("Reboot it by hand.")
        self.click("fetch")
        self.bench.steps.fail(NoRoom("Make room."))
        self.bench.restart("second boot")
        self.assert_failed("Make room.")
        self.assertEqual([attempt.id for attempt in self.on_disk().attempts], [1, 2])


class ForgetfulTests(UpdaterCase):
    """A box that may forget all at each restart does not install the same for ever."""

    def start(self, looked: float = 0.0, **settings: Any) -> None:
        """Start a box that was installed long ago, and last looked then."""
        self.bench = Bench(self.folder, install="automatic", **settings)
        os.utime(self.bench.version_file, (OLD, OLD))
        self.bench.clock.advance(10 * DAY)
        self.bench.journal.write(looked=looked)
        self.bench.restart()

    def look(self) -> None:
        looked = self.bench.updater.check()
        self.bench.steps.succeed(NEW)
        self.assertEqual(self.successResultOf(looked), NEW)

    def test_no_record(self) -> None:
        """Without a record of the last day it first runs for some hours."""
        self.start()
        self.look()
        self.assertFalse(self.bench.updater.is_due)
        self.assertEqual(
            self.bench.status.message,
            f"Release {NEW} is available. The box has no record of the last day, and installs it "
            "by itself when it has run for some hours.",
        )
        self.bench.clock.advance(3 * 3600 - 1)
        self.assertFalse(self.bench.updater.is_due)
        self.bench.clock.advance(1)
        self.assertTrue(self.bench.updater.is_due)
        self.look()
        self.assertEqual(self.bench.status.message, f"Release {NEW} is available.")

    def test_check_every(self) -> None:
        """Not longer than three of its looks take, and not much longer than that."""
        for every, wait in ((600, 1800), (7 * DAY, 3 * 3600)):
            with self.subTest(every=every):
                self.start(check_every=every)
                self.look()
                self.bench.clock.advance(wait - 1)
                self.assertFalse(self.bench.updater.is_due)
                self.bench.clock.advance(1)
                self.assertTrue(self.bench.updater.is_due)

    def test_record(self) -> None:
        """A look of the last day that is remembered is enough."""
        self.start(looked=NEW + 9.5 * DAY)
        self.look()
        self.assertTrue(self.bench.updater.is_due)

    def test_recorded(self) -> None:
        """A look that goes well is written down, and not each time."""
        self.start()
        for hours, expected in ((0, 0), (5, 0), (1, 6), (5, 6)):
            self.bench.clock.advance(hours * 3600)
            self.look()
            self.assertEqual(self.on_disk().looked, NEW + 10 * DAY + expected * 3600)
        looked = self.bench.updater.check()
        self.bench.clock.advance(DAY)
        self.bench.steps.fail(ServerFailed("Nobody is there."))
        self.failureResultOf(looked, ServerFailed)
        self.assertEqual(self.on_disk().looked, NEW + 10 * DAY + 6 * 3600)

    def test_installed_lately(self) -> None:
        """A box that was set up within the last day need not prove anything."""
        self.start()
        os.utime(self.bench.version_file, (NEW + 9.5 * DAY,) * 2)
        self.bench.restart()
        self.look()
        self.assertTrue(self.bench.updater.is_due)

    def test_click(self) -> None:
        """A click does not wait."""
        self.start()
        self.assert_works_again()


class BoxFaultTests(UpdaterCase):
    """What is the box's own fault refuses no release, and is tried again."""

    def assert_not_refused(self, reason: str) -> None:
        self.assert_failed(reason)
        self.assertEqual(self.on_disk().refused, ())

    def begin_automatic(self) -> None:
        """Let the box find the release by itself."""
        self.bench.updater.begin(automatic=True)
        self.bench.steps.succeed(NEW)
        self.bench.clock.advance(0)

    def test_unfit(self) -> None:
        """Nothing is fetched when the box cannot take it, and a click says why."""
        self.bench.preflight.unfit = BoxUnfit("The box cannot write in /opt.")
        self.click()
        self.succeed()
        self.assertEqual(self.bench.steps.names, ["newest"])
        self.assert_not_refused("The box cannot write in /opt.")
        self.bench.preflight.unfit = None
        self.assert_works_again()

    def test_unfit_by_itself(self) -> None:
        """A box that updates itself says so after each look, and goes on as soon as it can."""
        self.bench.preflight.unfit = BoxUnfit("The box cannot write in /opt.")
        for _ in range(3):
            self.begin_automatic()
            status = self.bench.status
            self.assertEqual((status.stage, status.trouble), (Stage.IDLE, status.message))
            self.assertEqual(status.message, "The box cannot write in /opt.")
        self.assertEqual((self.on_disk().attempts, self.on_disk().delay), ((), None))
        self.bench.preflight.unfit = None
        self.begin_automatic()
        self.assertEqual(self.bench.steps.names[-1], "fetch")
        self.assertIsNone(self.bench.status.trouble)

    def test_room(self) -> None:
        """What an installed copy needs is known from the first try: the next waits for the room."""
        self.click("unpack")
        self.bench.preflight.unfit = BoxUnfit("It needs 5 MiB.", room=5 << 20)
        self.succeed()
        self.assertNotIn("install", self.bench.steps.names)
        self.assert_not_refused("It needs 5 MiB.")
        self.begin_automatic()
        self.assertEqual(self.bench.preflight.room, 5 << 20)
        self.assertEqual(self.bench.status.message, "It needs 5 MiB.")
        self.assertEqual(self.bench.steps.names.count("unpack"), 1)
        self.bench.preflight.unfit = None
        self.begin_automatic()
        self.assertEqual(self.bench.steps.names[-1], "fetch")

    def test_at_fault(self) -> None:
        """A script that finds the box at fault is tried again later, more and more seldom."""
        for number in range(10):
            self.begin_automatic()
            self.travel("install")
            self.bench.steps.fail(BoxAtFault("Make room.", touched=False))
            self.assert_not_refused("Make room.")
            pause = min(3600 * 2**number, 24 * 3600)
            self.bench.clock.advance(pause - 1)
            self.begin_automatic()
            self.assertIn(
                f"Release {NEW} is not installed: Make room. The box tries again later",
                self.bench.status.message,
            )
            self.assertEqual(self.bench.steps.names[-1], "newest")
            self.bench.clock.advance(1)
        self.begin_automatic()
        self.assertEqual(self.bench.steps.names[-1], "newest", "ten tries are enough")
        self.assert_works_again()

    def test_found_afterwards(self) -> None:
        """What a script made of a box that was at fault is measured when it has failed."""
        self.bench.preflight.fault = "The box cannot write in /opt."
        self.click("install")
        self.bench.steps.fail(InstallFailed("It ended with 1."))
        self.assert_not_refused("It ended with 1. The box cannot write in /opt.")

    def test_short_meanwhile(self) -> None:
        """So is what it wrote, when the box was short of something only while it ran."""
        self.bench.installer.shortage = "The box was short of something."
        self.click("install")
        self.bench.steps.fail(InstallFailed("It ended with 1."))
        self.assert_not_refused("It ended with 1. The box was short of something.")

    def test_found_by_the_next_agent(self) -> None:
        """So it is by an agent that was started meanwhile."""
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
                self.bench.preflight.fault = "The box ran out of memory."
                self.bench.steps.succeed(status)
                self.assert_not_refused(reason)

    def test_not_started(self) -> None:
        """A script that never ran is put off like the others."""
        self.click("install")
        self.bench.steps.fail(NotStarted("It was not started."))
        self.assert_not_refused("It was not started.")
        self.begin_automatic()
        self.assertIn("It was not started. The box tries again later", self.bench.status.message)

    def test_success(self) -> None:
        """A release that was installed is not put off any more."""
        self.test_not_started()
        self.click("reboot")
        self.bench.set_installed(NEW)
        self.bench.restart("second boot")
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertIsNone(self.on_disk().delay)

    def test_unfit_after_interruption(self) -> None:
        """An installation that was interrupted goes on as soon as the box can take it."""
        self.click("install")
        self.bench.restart()
        self.bench.preflight.unfit = BoxUnfit("The box cannot write in /opt.")
        for _ in range(MAX_TRIES + 1):
            self.bench.steps.succeed()
            self.assertEqual(self.bench.status.message, "The box cannot write in /opt.")
            self.bench.clock.advance(60)
        self.bench.preflight.unfit = None
        self.travel("install")
        self.assertEqual(self.on_disk().tries, 2)


class StopTests(UpdaterCase):
    """The agent stops in the midst of a journey."""

    def test_each_step(self) -> None:
        """The journal keeps the stage for the next agent; nothing has failed."""
        for step in JOURNEY:
            if step.name == "forget":
                continue
            with self.subTest(step=step):
                self.bench = Bench(self.folder).start()
                self.bench.journal_path.unlink(missing_ok=True)
                self.bench.restart()
                self.click(step.name)
                stopped = self.bench.updater.stopService()
                if stopped is not None:
                    self.successResultOf(stopped)
                self.assertEqual(self.on_disk().stage, step.stage)
                self.assertEqual(self.on_disk().attempts, ())
                self.assertEqual(self.bench.status.stage, step.stage)
                self.assertEqual(self.bench.clock.getDelayedCalls(), [])

    def test_while_waiting(self) -> None:
        """So it is while a delay passes, or the reboot is awaited."""
        self.bench.updater.begin(delay=300)
        self.bench.steps.succeed(NEW)
        self.bench.updater.stopService()
        self.assertEqual(self.on_disk().stage, Stage.CHECKING)
        self.bench.journal_path.unlink()
        self.bench.restart()
        self.click("reboot")
        self.bench.steps.succeed()
        self.bench.updater.stopService()
        self.assertEqual(self.on_disk().stage, Stage.REBOOTING)
        self.assertEqual(self.bench.clock.getDelayedCalls(), [])

    def test_wrapped(self) -> None:
        """A step may fail with whatever a cancelled request becomes: it has still not failed."""
        self.click("fetch")
        self.bench.updater.running = 0
        self.bench.steps.fail(ServerFailed("The request was aborted."))
        self.assertEqual(self.on_disk().stage, Stage.DOWNLOADING)
        self.assertEqual(self.on_disk().attempts, ())

    def test_at_rest(self) -> None:
        """There may be nothing to stop."""
        self.assertIsNone(self.bench.updater.stopService())


class InhibitorTests(UpdaterCase):
    """A measurement that must not be disturbed."""

    def setUp(self) -> None:
        super().setUp()
        self.inhibit_file = self.bench.config.inhibit_file

    def hold(self, until: str = "unpack") -> None:
        """Let a measurement begin while a journey is at a step, and that step succeed."""
        self.click(until)
        self.inhibit_file.touch()
        self.succeed()

    def test_held(self) -> None:
        """Before anything is changed on the box, even a click waits for its end, and says so."""
        self.hold()
        status = self.bench.status
        self.assertEqual((status.stage, self.on_disk().stage), (Stage.UNPACKING, Stage.UNPACKING))
        self.assertIn("Waiting for a measurement to end;", status.message)
        self.assertEqual(self.bench.steps.names[-1], "unpack")
        self.inhibit_file.unlink()
        self.bench.clock.advance(5)
        self.assertEqual(self.bench.steps.begun, JOURNEY[:-1])
        self.assertIn("Installing the new release", self.bench.status.message)
        self.succeed()
        self.assertEqual(self.bench.steps.begun, JOURNEY)

    def test_bounded(self) -> None:
        """It does not wait for ever."""
        self.hold()
        self.bench.clock.pump([5.0] * 719)
        self.assertEqual(self.bench.status.stage, Stage.UNPACKING)
        self.bench.clock.advance(5)
        self.assertEqual(self.bench.status.stage, Stage.INSTALLING)

    def test_look_meanwhile(self) -> None:
        """Who looks for a release meanwhile still reads what is waited for."""
        self.hold()
        message = self.bench.status.message
        self.bench.updater.check()
        self.bench.steps.succeed(NEWER)
        self.assertEqual(self.bench.status.message, message)

    def test_stopped(self) -> None:
        """An agent that is stopped meanwhile leaves nothing behind, and the next begins again."""
        self.hold()
        self.bench.updater.stopService()
        self.assertEqual(self.bench.clock.getDelayedCalls(), [])
        self.inhibit_file.unlink()
        self.bench.restart()
        self.travel("reboot")
        self.assertEqual(self.bench.steps.begun, JOURNEY)

    def test_begun(self) -> None:
        """An installation that is under way is not interrupted."""
        self.hold("install")
        self.assertEqual(self.bench.steps.begun, JOURNEY)

    def test_resumed(self) -> None:
        """One that a power cut interrupted waits before it is tried again."""
        self.click("install")
        self.inhibit_file.touch()
        self.bench.restart("another boot")
        self.bench.steps.succeed(None)
        self.bench.clock.advance(0)
        self.travel("unpack")
        self.succeed()
        self.assertIn("Waiting for a measurement to end;", self.bench.status.message)
        self.inhibit_file.unlink()
        self.bench.clock.advance(5)
        self.assertEqual(self.bench.steps.names[-1], "install")


class ResumeTests(UpdaterCase):
    """The agent starts, and finds that an earlier one was interrupted."""

    def test_before_installing(self) -> None:
        """Where nothing was installed yet the journey begins again, at most three times in all."""
        for step in ("newest", "fetch", "verify", "unpack"):
            with self.subTest(step=step):
                self.bench = Bench(self.folder)
                self.bench.journal_path.unlink(missing_ok=True)
                self.bench.restart()
                self.click(step)
                for boot in range(1, MAX_TRIES):
                    self.bench.restart(f"boot {boot}")
                    self.assertEqual(self.bench.steps.begun, JOURNEY[:1])
                    self.travel(step)
                self.bench.restart("last boot")
                self.assertEqual(self.bench.steps.begun, [])
                self.assert_failed("The update was interrupted 3 times. Click to try again.")
                self.assertEqual(self.on_disk().refused, ())
                self.assert_works_again()

    def test_nobody_clicked(self) -> None:
        """What began by itself takes after an interruption only what it may take by itself."""
        for automatic, steps in ((True, ["newest"]), (False, ["newest", "fetch"])):
            with self.subTest(automatic=automatic):
                self.bench.updater.begin(automatic=automatic)
                self.travel("fetch")
                self.bench.restart()
                self.bench.steps.succeed(Offer(NEWER, rollout=Rollout(0, "x1")))
                self.bench.clock.advance(0)
                self.assertEqual(self.bench.steps.names, steps)

    def test_all_the_way(self) -> None:
        """What was interrupted ends like a journey that was not."""
        self.click("unpack")
        self.bench.restart("second boot")
        self.travel("reboot")
        self.assertEqual(self.bench.steps.begun, JOURNEY)
        # The installation has its own three tries.
        self.assertEqual(self.on_disk().tries, 1)

    def test_resumed_check(self) -> None:
        """What was interrupted may have become unnecessary."""
        self.click("fetch")
        self.bench.restart()
        self.bench.steps.succeed(OLD)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(self.on_disk().stage, Stage.IDLE)

    def test_busy_while_resuming(self) -> None:
        """What is resumed is a journey like another: there is only one."""
        self.click("install")
        self.bench.restart()
        with self.assertRaises(UpdateInProgress):
            self.bench.updater.begin()

    def interrupt_install(self, boot_id: str, put_in_place: bool = False) -> None:
        self.click("install")
        if put_in_place:
            self.bench.set_installed(NEW)
        self.bench.restart(boot_id)
        self.assertEqual(self.bench.steps.begun, [Begun("wait", "installing")])

    def test_script_succeeded(self) -> None:
        """A script that succeeded without us is followed by the reboot."""
        for put_in_place in (False, True):
            with self.subTest(put_in_place=put_in_place):
                self.bench = Bench(self.folder)
                self.bench.journal_path.unlink(missing_ok=True)
                self.bench.restart()
                self.interrupt_install("first boot", put_in_place)
                self.bench.steps.succeed(0)
                self.assertEqual(self.bench.steps.begun[1:], [Begun("reboot", "rebooting")])

    def test_script_failed(self) -> None:
        """A script that failed without us has failed; it is not tried again by itself."""
        for boot_id in ("first boot", "second boot"):
            with self.subTest(boot_id=boot_id):
                self.bench = Bench(self.folder)
                self.bench.journal_path.unlink(missing_ok=True)
                self.bench.restart()
                self.interrupt_install(boot_id)
                self.bench.steps.succeed(7)
                log = self.folder / "box_update.log"
                self.assert_failed(f"install_update.sh ended with exit status 7. See {log}.")
                self.assertEqual([item.version for item in self.on_disk().refused], [NEW])

    def test_script_hung(self) -> None:
        """A script that does not end without us is to blame too."""
        self.interrupt_install("first boot")
        self.bench.steps.fail(InstallFailed("It took too long."))
        self.assert_failed("It took too long.")
        self.assertEqual([item.version for item in self.on_disk().refused], [NEW])

    def test_rebooted_by_script(self) -> None:
        """A script that put the release in place and rebooted by itself has done its work."""
        for status in (0, None):
            with self.subTest(status=status):
                self.bench = Bench(self.folder)
                self.bench.journal_path.unlink(missing_ok=True)
                self.bench.restart()
                self.interrupt_install("second boot", put_in_place=True)
                self.bench.steps.succeed(status)
                self.assertEqual(self.bench.status.stage, Stage.IDLE)
                self.assertEqual(self.bench.status.installed, NEW)

    def test_rebooted_in_vain(self) -> None:
        """A script that succeeded and rebooted without the release in place has failed."""
        self.interrupt_install("second boot")
        self.bench.steps.succeed(0)
        self.assertEqual(self.bench.steps.names, ["wait"])
        self.assertIn(f"After the reboot the box runs {OLD}, not {NEW}.", self.bench.status.message)
        self.assert_failed(self.bench.status.message)

    def test_power_cut(self) -> None:
        """A script that went with the power is run again, at most three times in all."""
        self.interrupt_install("boot 2")
        for boot in (3, 4):
            self.bench.steps.succeed(None)
            self.assertEqual(
                self.bench.steps.begun[1:],
                [Begun("open", "installing"), Begun("unpack", "installing")],
            )
            self.travel("install")
            self.bench.restart(f"boot {boot}")
        self.bench.steps.succeed(None)
        self.assertEqual(self.bench.steps.names, ["wait"])
        self.assert_failed(f"Release {NEW} was interrupted 3 times. Click to try again.")
        self.assertEqual([item.version for item in self.on_disk().refused], [NEW])
        self.assert_works_again()

    def test_says_what_it_does(self) -> None:
        """The page tells what goes on, and not how the attempt before ended."""
        self.click("fetch")
        self.bench.steps.fail(DownloadFailed("The connection broke."))
        self.interrupt_install("second boot")
        self.assertIn("Installing the new release", self.bench.status.message)

    def test_no_room_for_another_try(self) -> None:
        """Room is waited for, and the release is not to blame that there is none."""
        self.interrupt_install("second boot")
        for _ in range(5):
            self.bench.steps.succeed(None)
            self.assertEqual(self.bench.steps.names[-1], "unpack")
            self.bench.steps.fail(NoRoom("It needs 5 MB."))
            self.assertEqual(self.bench.status.message, "It needs 5 MB.")
            self.bench.clock.advance(60)
        self.bench.steps.succeed(None)
        self.travel("reboot")
        self.assertEqual(self.on_disk().refused, ())

    def test_archive_lost(self) -> None:
        """An archive that is not what it was is not installed again; a click fetches it anew."""
        self.interrupt_install("second boot")
        self.bench.archives.lost = True
        self.bench.steps.succeed(None)
        self.assertEqual(self.bench.steps.names, ["wait", "open"])
        self.assert_failed("It is lost.")
        self.assertEqual(self.on_disk().refused, ())
        self.assert_works_again()

    def test_power_cut_while_unpacking_again(self) -> None:
        """A try counts from when the archive is unpacked for it: that too may fell the box."""
        self.interrupt_install("boot 2")
        for boot in (3, 4):
            self.bench.steps.succeed(None)
            self.assertEqual(self.bench.steps.names, ["wait", "open", "unpack"])
            self.bench.restart(f"boot {boot}")
        self.bench.steps.succeed(None)
        self.assert_failed(f"Release {NEW} was interrupted 3 times. Click to try again.")

    def test_agent_killed(self) -> None:
        """In the same boot a script without a status is run again, whatever it put in place."""
        self.interrupt_install("first boot", put_in_place=True)
        self.bench.steps.succeed(None)
        self.travel("install")
        self.assertEqual(self.bench.steps.names, ["wait", "open", "unpack", "forget", "install"])

    def reboot(self, version: int) -> None:
        """Go all the way, and come back with a release."""
        self.click("reboot")
        self.bench.set_installed(version)
        self.bench.restart("second boot")

    def test_same_boot(self) -> None:
        """An agent that died before it could ask for the reboot asks for it, three times in all."""
        self.click("reboot")
        for _ in range(1, MAX_TRIES):
            self.change_journal(reboot_under_way=False)
            self.bench.set_installed(NEW)
            self.bench.restart()
            self.assertEqual(self.bench.steps.begun, [Begun("reboot", "rebooting")])
        self.change_journal(reboot_under_way=False)
        self.bench.restart()
        self.assertEqual(self.bench.steps.begun, [])
        self.assert_failed("The box did not reboot, asked 3 times. Do it by hand.")

    def test_stopped_by_reboot(self) -> None:
        """A sandbox keeps its boot id: there the agent's orderly stop tells of the reboot."""
        self.click("reboot")
        self.bench.set_installed(NEW)
        self.bench.updater.stopService()
        self.assertTrue(self.on_disk().reboot_under_way)
        self.bench.restart()
        self.assertEqual((self.bench.status.stage, self.bench.steps.names), (Stage.IDLE, ["open"]))

    def test_reboot_accepted(self) -> None:
        """So does the success of the command, should the agent be killed."""
        self.click("reboot")
        self.assertFalse(self.on_disk().reboot_under_way)
        self.bench.steps.succeed()
        self.assertTrue(self.on_disk().reboot_under_way)

    def test_waits_for_reboot(self) -> None:
        """A release that only lacks its reboot is not installed again by itself."""
        self.click("reboot")
        self.bench.set_installed(NEW)
        self.refuse_reboot("It cannot.")
        self.bench.updater.begin(automatic=True)
        self.bench.steps.succeed(NEW)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(
            self.bench.status.message, f"Release {NEW} is installed, and waits for a reboot."
        )

    def test_network_comes_last(self) -> None:
        """An update that goes on after a power cut waits for the network."""
        self.click("fetch")
        self.bench.restart("second boot")
        for pause in (10, 20):
            self.bench.steps.fail(ServerFailed("Cannot reach it."))
            self.bench.clock.advance(pause - 1)
            begun = len(self.bench.steps.begun)
            self.bench.clock.advance(1)
            self.assertEqual(self.bench.steps.names[begun:], ["newest"])
        self.travel("reboot")

    def test_network_never_comes(self) -> None:
        """In the end it has failed, and a click works again."""
        self.click("fetch")
        self.bench.restart("second boot")
        for pause in (10, 20, 60, 300, 600):
            self.bench.steps.fail(ServerFailed("Cannot reach it."))
            self.bench.clock.advance(pause)
        self.bench.steps.fail(ServerFailed("Cannot reach it."))
        self.assert_failed("Cannot reach it.")
        self.assert_works_again()

    def test_confirmed(self) -> None:
        """An update has succeeded once the box has booted with the new release."""
        self.reboot(NEW)
        status = self.bench.status
        self.assertEqual((status.stage, status.installed), (Stage.IDLE, NEW))
        self.assertEqual(status.message, f"The box runs release {NEW}.")
        entry = self.on_disk()
        self.assertEqual((entry.stage, entry.release, entry.tries), (Stage.IDLE, None, 0))
        attempt = entry.attempts[-1]
        self.assertEqual((attempt.version, attempt.outcome), (NEW, "updated"))
        self.assertEqual(status.last_attempt, attempt)
        self.assertEqual(self.bench.steps.names, ["open"])

    def test_not_the_release(self) -> None:
        """A box that comes back with another release has failed; no loop of reboots follows."""
        for version, runs in ((OLD, OLD), (NEWER, NEWER)):
            with self.subTest(version=version):
                self.reboot(version)
                log = self.folder / "box_update.log"
                self.assert_failed(f"After the reboot the box runs {runs}, not {NEW}. See {log}.")
                self.assertEqual([item.version for item in self.on_disk().refused], [NEW])
                self.bench.set_installed(OLD)
                self.bench.restart("third boot")
                self.bench.updater.begin(automatic=True)
                self.bench.steps.succeed(NEW)
                self.assertEqual(self.bench.status.stage, Stage.IDLE)

    def test_unreadable_version(self) -> None:
        """A version that cannot be read for a while is no fault of the release."""
        self.click("reboot")
        self.bench.set_installed(NEW)
        failing = [OSError(errno.EIO, "Input/output error")]
        read = Installed.read

        def fail(installed: Installed) -> int | None:
            if failing:
                raise failing.pop()
            return read(installed)

        self.patch(Installed, "read", fail)
        self.bench.restart("second boot")
        self.assertEqual(self.bench.status.message, "The box's disk fails: Input/output error.")
        self.bench.clock.advance(60)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(self.on_disk().refused, ())

    def test_no_version(self) -> None:
        """A box that comes back without any release has failed too."""
        self.click("reboot")
        self.bench.version_file.unlink()
        self.bench.restart("second boot")
        self.assertIn("the box runs an unknown release", self.bench.status.message)
        self.assert_failed(self.bench.status.message)

    def test_confirming(self) -> None:
        """An agent that was interrupted while it confirmed confirms."""
        self.click("reboot")
        self.bench.set_installed(NEW)
        self.change_journal(stage="confirming")
        self.bench.restart("second boot")
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(self.on_disk().attempts[-1].outcome, "updated")

    def test_confirming_disk_full(self) -> None:
        """When the disk is full after the reboot, the agent says so, and confirms later."""
        self.click("reboot")
        self.bench.set_installed(NEW)
        self.fill_disk()
        self.bench.restart("second boot")
        self.assertIn("disk is full", self.bench.status.message)
        self.bench.clock.advance(60)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(self.on_disk().attempts[-1].outcome, "updated")

    def test_failed(self) -> None:
        """An agent that starts after a failure does nothing but show it."""
        self.click("install")
        self.bench.steps.fail(InstallFailed("It ended with 1."))
        self.bench.restart()
        status = self.bench.status
        self.assertEqual(status.stage, Stage.FAILED)
        assert status.last_attempt is not None
        self.assertEqual(status.last_attempt.reason, "It ended with 1.")
        self.assertEqual(self.bench.steps.begun, [])

    def test_unreadable_journal(self) -> None:
        """An agent whose journal is gone to the dogs goes on from idle."""
        self.click("install")
        self.bench.journal_path.write_bytes(bytes(100))
        said = logged(self)
        self.bench.restart()
        self.assertIn("set aside", said[0])
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assert_works_again()
