"""A release becomes the last good one when its own agent has reached the update server."""

import errno
import json
import os

from twisted.internet.defer import Deferred

from opq_twisted.archive.release import Release
from opq_twisted.box.state.journal import Journal
from opq_twisted.box.state.records import Stage
from opq_twisted.common.errors import BoxUnfit, ClockBehind, ServerFailed, Untrusted
from opq_twisted.trust.offer import Offer
from tests.helpers.box_fakes import NEW, NEWER, OLD, StepOfferLookup, logged
from tests.helpers.updater_case import GOOD, HealthyCase

HOUR = 3600.0
KEPT = Release(NEW, None, {"sha256": "ab" * 32})
REASON = "It could not look for an update in 3 days, and the release before it could."
NOBODY = ServerFailed("Nobody is there.")


class TrialCase(HealthyCase):
    """A box whose new release is healthy, and whose agent has not reached the server."""

    def setUp(self) -> None:
        # Days of entries need not come to the disk of the machine that runs the tests.
        self.patch(os, "fsync", lambda fd: None)
        super().setUp()

    def boot(self, boot_id: str) -> None:
        super().boot(boot_id)
        self.bench.releases.answers_new_release = False

    def confirm(self, answer: int | Exception | None = NOBODY) -> None:
        """Update, and let the new release look when it is healthy."""
        self.boot_new()
        self.bench.steps.succeed()
        self.assertEqual(self.bench.steps.names[-1], "newest")
        self.answer(answer)
        self.assertEqual((self.bench.status.stage, self.bench.status.installed), (Stage.IDLE, NEW))

    def check(self, answer: int | Offer | Exception | None) -> Deferred[int | None]:
        """Check once; an error is not of interest here."""
        return super().check(answer).addErrback(lambda failure: None)

    def run_for(self, hours: int) -> None:
        """Let the box run, so that it may notice each hour."""
        self.bench.clock.pump([HOUR] * hours)

    def go_back(self, after: int = 72) -> None:
        """Let the trial end, and the box come back with the release before."""
        self.run_for(after)
        self.answer(NOBODY)
        self.install_last_good()
        self.boot("third boot")
        self.bench.steps.succeed(0)
        self.assert_returned(REASON)

    @property
    def refused(self) -> list[int]:
        return [each.version for each in self.on_disk().refused]


class ProofTests(TrialCase):
    """When a release is proven."""

    def test_at_once(self) -> None:
        """An agent that reaches the server while it confirms its release has proven it."""
        self.confirm(NEW)
        self.assertEqual(self.archives.last_good, KEPT)
        self.assertEqual(self.bench.status.message, f"The box runs release {NEW}.")
        self.assertIsNone(self.on_disk().trial)

    def test_later(self) -> None:
        """Until it has, the archive of the release before is the last good one."""
        self.confirm()
        self.assertEqual(
            self.bench.status.last_attempt.reason if self.bench.status.last_attempt else "",
            f"The box runs release {NEW}. Its agent has not reached the update server yet.",
        )
        self.assertEqual(self.archives.last_good, GOOD)
        self.boot("third boot")
        for error in (NOBODY, Untrusted("It is another."), OSError(errno.EIO, "Input error")):
            self.check(error)
            self.assertEqual(self.archives.last_good, GOOD)
        self.check(None)
        self.assertEqual(self.archives.last_good, KEPT)
        self.assertIsNone(self.on_disk().trial)

    def test_lost_root(self) -> None:
        """An agent that lost its trusted root hears of releases, and is none that can update."""
        self.confirm()
        self.patch(StepOfferLookup, "unsigned", False)
        self.check(NEW)
        self.assertEqual(self.archives.last_good, GOOD)
        (self.folder / "root.json").write_text("{}")
        self.check(Offer(NEW, signed=True))
        self.assertEqual(self.archives.last_good, KEPT)

    def test_no_answer(self) -> None:
        """A server that does not answer holds nothing up for long."""
        self.boot_new()
        self.bench.steps.succeed()
        self.bench.clock.advance(59)
        self.assertEqual(self.bench.status.stage, Stage.CONFIRMING)
        self.bench.clock.advance(1)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(self.archives.last_good, GOOD)
        self.bench.steps.succeed(NEW)
        self.assertEqual(self.archives.last_good, KEPT)

    def test_dies_of_it(self) -> None:
        """An agent that dies when it looks has not confirmed its release."""
        self.boot_new()
        for _ in range(99):
            if self.bench.status.stage is not Stage.CONFIRMING:
                break
            self.bench.steps.succeed()
            self.bench.clock.advance(50)
            self.bench.updater.stopService()
            self.boot("second boot")
        self.assertIn("started again and again", self.on_disk().cause)
        self.install_last_good()

    def test_disk_full(self) -> None:
        """What the disk does not take is tried again with the next look."""
        self.confirm()
        self.bench.journal.write(looked=self.bench.clock.seconds())
        self.fill_disk()
        said = logged(self)
        self.check(NEW)
        self.assertEqual(self.archives.last_good, GOOD)
        self.assertIn("cannot be made the last good one", "".join(said))
        self.check(NEW)
        self.assertEqual(self.archives.last_good, KEPT)

    def test_archive_lost(self) -> None:
        """A release whose archive is lost is none to return to, and is proven all the same."""
        self.confirm()
        self.bench.archives.lost = True
        self.check(NEW)
        self.assertEqual(self.archives.last_good, GOOD)
        self.assertIsNone(self.on_disk().trial)
        self.run_for(80)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)

    def test_next_release(self) -> None:
        """A release that has found the next one has proven itself before it is replaced."""
        self.confirm()
        self.find(NEWER)
        self.assertEqual(self.bench.steps.names[-1], "fetch")
        self.assertEqual(self.archives.last_good, KEPT)

    def test_failed_update(self) -> None:
        """An update that cannot even begin does not end the trial."""
        self.confirm()
        self.bench.updater.begin()
        self.bench.steps.fail(NOBODY)
        trial = self.on_disk().trial
        self.assertEqual(trial and trial.release.version, NEW)
        self.run_for(72)
        self.answer(NOBODY)
        self.install_last_good()

    def test_first_update(self) -> None:
        """Where there is nothing to return to, a healthy release is better than that."""
        (self.folder / "last-good").unlink()
        self.confirm()
        self.assertEqual(self.archives.last_good, KEPT)
        self.run_for(100)
        self.assertEqual((self.bench.status.stage, self.refused), (Stage.IDLE, []))

    def test_adopted(self) -> None:
        """So is one that somebody has adopted meanwhile."""
        self.confirm()
        self.archives.keep_as_last_good(KEPT)
        self.run_for(100)
        self.assertEqual((self.bench.status.stage, self.refused), (Stage.IDLE, []))

    def test_older_journal(self) -> None:
        """What an agent has confirmed that knew of no trial is good."""
        self.confirm()
        content = json.loads(self.bench.journal_path.read_text())
        for key in ("trial", "doubted", "acquitted", "looked"):
            del content[key]
        self.bench.journal_path.write_text(json.dumps(content))
        self.boot("third boot")
        self.run_for(100)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)

    def test_newer_journal(self) -> None:
        """An agent reads what one has written that knew more."""
        self.confirm()
        self.change_journal(unheard_of={"a": 1})
        self.assertEqual(Journal(self.bench.journal_path, "").trouble, "")


class ReturnTests(TrialCase):
    """A release that cannot reach the server gives way to the one before, once."""

    def test_three_days(self) -> None:
        """After three days, and a last look, the box goes back, and says why."""
        self.confirm()
        self.run_for(71)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.go_back(after=1)
        self.assertEqual(self.refused, [NEW])
        self.assertEqual([each.id for each in self.on_disk().attempts], [1, 2])

    def test_over_all_boots(self) -> None:
        """What it has run for is counted over all boots."""
        self.confirm()
        self.run_for(40)
        self.boot("third boot")
        self.run_for(31)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.run_for(1)
        self.answer(NOBODY)
        self.install_last_good()

    def test_short_boots(self) -> None:
        """A box that is switched off before each hour is over goes back, too."""
        self.confirm()
        for number in range(95):
            self.bench.clock.advance(45 * 60)
            self.boot(f"boot {number}")
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.bench.clock.advance(45 * 60)
        self.answer(NOBODY)
        self.install_last_good()

    def test_stopped(self) -> None:
        """An agent that is stopped sooner counts how long it has run."""
        self.confirm()
        self.bench.clock.advance(300)
        self.bench.updater.stopService()
        trial = self.on_disk().trial
        assert trial is not None
        self.assertEqual(trial.uptime, 300)

    def test_last_look(self) -> None:
        """A last look that goes well proves it."""
        self.confirm()
        self.run_for(72)
        self.answer(NEW)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(self.archives.last_good, KEPT)

    def test_not_during_an_update(self) -> None:
        """What is under way is not disturbed."""
        self.confirm()
        self.run_for(71)
        self.bench.updater.begin()
        self.run_for(1)
        self.assertEqual(self.bench.status.stage, Stage.CHECKING)
        self.bench.steps.fail(NOBODY)
        self.run_for(1)
        self.answer(NOBODY)
        self.install_last_good()

    def test_disk_full(self) -> None:
        """An hour that cannot be written down is counted."""
        self.confirm()
        self.run_for(70)
        self.fill_disk()
        self.run_for(2)
        self.answer(NOBODY)
        self.install_last_good()

    def test_unfit(self) -> None:
        """A box that cannot install the one before goes on to look, and goes back when it can."""
        self.confirm()
        self.bench.preflight.unfit = BoxUnfit("The box cannot write in /opt.")
        self.run_for(72)
        self.answer(NOBODY)
        self.assertEqual((self.bench.status.stage, self.refused), (Stage.IDLE, []))
        self.bench.preflight.unfit = None
        self.run_for(1)
        self.answer(NOBODY)
        self.install_last_good()

    def test_no_way_back(self) -> None:
        """Where the archive of the one before is damaged, the release stays."""
        self.confirm()
        self.bench.archives.lost = True
        self.run_for(72)
        self.answer(NOBODY)
        self.assertEqual((self.bench.status.stage, self.refused), (Stage.IDLE, []))
        self.run_for(2)
        self.assertEqual(self.bench.steps.names[-1], "open", "it is not read again and again")
        self.bench.archives.lost = False
        self.check(NEW)
        self.assertEqual(self.archives.last_good, KEPT)

    def test_measurement(self) -> None:
        """A measurement is left to end."""
        self.confirm()
        self.run_for(71)
        self.bench.config.inhibit_file.touch()
        self.run_for(1)
        self.answer(NOBODY)
        self.assertIn("Waiting for a measurement to end", self.bench.status.message)
        self.bench.config.inhibit_file.unlink()
        self.bench.clock.advance(60)
        self.install_last_good()

    def test_never_looked(self) -> None:
        """Where nobody knows that the one before could look, there is no reason to go back."""
        self.confirm()
        content = json.loads(self.bench.journal_path.read_text())
        content["trial"]["looked_before"] = 0
        self.bench.journal_path.write_text(json.dumps(content))
        self.boot("third boot")
        self.run_for(100)
        self.assertEqual((self.bench.status.stage, self.refused), (Stage.IDLE, []))

    def test_to_blame(self) -> None:
        """When the release before reaches the server at once, the new one stays refused."""
        self.confirm()
        self.go_back()
        self.check(NEW)
        self.assertEqual((self.refused, self.on_disk().doubted), ([NEW], None))
        self.assertFalse(self.bench.updater.is_due)
        self.assertIn(f"Release {NEW} is refused: {REASON}", self.bench.status.message)
        self.check(NOBODY)
        self.assertEqual(self.refused, [NEW])

    def test_network_to_blame(self) -> None:
        """When it does not, nobody is refused; the box stays, and takes the release in the end."""
        self.confirm()
        self.go_back()
        for error in (ClockBehind("Wait."), OSError(errno.EIO, os.strerror(errno.EIO))):
            self.check(error)
            self.assertEqual(self.refused, [NEW], "that says nothing of the network")
        self.check(NOBODY)
        self.assertEqual(self.refused, [])
        self.run_for(30 * 24)
        self.assertEqual((self.bench.status.stage, self.bench.status.installed), (Stage.IDLE, OLD))
        self.check(NEW)
        self.assertTrue(self.bench.updater.is_due)

    def test_once(self) -> None:
        """A release that cannot reach the server a second time is refused for good."""
        self.test_network_to_blame()
        self.confirm_again()
        self.run_for(72)
        self.answer(NOBODY)
        self.install_last_good()
        self.boot("sixth boot")
        self.bench.steps.succeed(0)
        self.check(NOBODY)
        self.assertEqual((self.refused, self.on_disk().doubted), ([NEW], None))
        self.check(NEW)
        self.assertFalse(self.bench.updater.is_due)

    def confirm_again(self) -> None:
        """Install it once more."""
        self.click("reboot")
        self.bench.set_installed(NEW)
        self.boot("fifth boot")
        self.bench.steps.succeed()
        self.answer(NOBODY)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)

    def test_own_look(self) -> None:
        """What its own agent finds on the way back is no verdict of the release before."""
        self.confirm()
        self.run_for(72)
        self.answer(NOBODY)
        waiting = self.bench.steps.take()
        self.check(NOBODY)
        self.assertEqual(self.refused, [NEW])
        self.assertIsNotNone(self.on_disk().doubted)
        waiting.callback(None)
        self.assertEqual(self.bench.steps.names[-1], "unpack")

    def test_cannot_return(self) -> None:
        """A release from which the box could not return is refused no more once it looks well."""
        self.confirm()
        self.run_for(72)
        self.answer(NOBODY)
        for step in ("wait", "unpack", "install"):
            self.assertEqual(self.bench.steps.names[-1], step)
            self.bench.steps.succeed()
        self.bench.steps.succeed(0)
        self.refuse_reboot("Reboot it by hand.")
        self.assertEqual((self.bench.status.stage, self.refused), (Stage.FAILED, [NEW]))
        self.check(NEW)
        self.assertEqual((self.refused, self.on_disk().doubted), ([], None))


class OtherReleaseTests(TrialCase):
    """Another release runs than the one that has to prove itself."""

    def test_rescued(self) -> None:
        """What the rescue has replaced is refused, though it had been confirmed."""
        self.confirm()
        (self.folder / "rescued").write_text(f"{OLD}\n")
        self.bench.set_installed(OLD)
        self.boot("third boot")
        self.assert_returned(
            "Its agent did not start, or did nothing, and the box's rescue script came to help."
        )
        self.assertEqual((self.refused, self.on_disk().trial), ([NEW], None))
        self.assertFalse((self.folder / "rescued").exists())

    def test_by_hand(self) -> None:
        """What somebody has installed by hand is nobody's fault."""
        self.confirm()
        self.bench.set_installed(NEWER)
        self.boot("third boot")
        self.assertEqual((self.refused, self.on_disk().trial), ([], None))
        self.run_for(100)
        self.assertEqual(
            (self.bench.status.stage, self.bench.status.installed), (Stage.IDLE, NEWER)
        )

    def test_unreadable(self) -> None:
        """A version that cannot be read now says nothing."""
        self.confirm()
        self.bench.version_file.unlink()
        self.boot("third boot")
        self.assertIsNotNone(self.on_disk().trial)
