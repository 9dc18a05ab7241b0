"""A release becomes the last good one when its own agent has reached the update server."""

import errno
import json
import os

from twisted.internet.defer import Deferred

from opq_twisted.archive.release import Release
from opq_twisted.box.state.journal import Journal
from opq_twisted.box.state.stages import Stage
from opq_twisted.common.errors import BoxUnfit, ClockBehind, ServerFailed, Untrusted
from opq_twisted.trust.offer import Offer
from tests.helpers.box_fakes import NEW, NEWER, OLD, StepOfferLookup, logged
from tests.helpers.updater_case import GOOD, HealthyCase

HOUR = 3600.0
KEPT = Release(NEW, None, {"sha256": "ab" * 32})
REASON = (
    "Its agent did not reach the update server in 3 days, and the agent of the release before did."
)
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
        """Update, and let the new agent check once its release is healthy."""
        self.boot_new()
        self.bench.steps.succeed()
        self.assertEqual(self.bench.steps.names[-1], "newest")
        self.answer(answer)
        self.assert_at_rest(NEW)

    def check(self, answer: int | Offer | Exception | None) -> Deferred[int | None]:
        """Check once; an error is not of interest here."""
        return super().check(answer).addErrback(lambda failure: None)

    def run_for(self, hours: int) -> None:
        """Let the box run, hour by hour."""
        self.bench.clock.pump([HOUR] * hours)

    def assert_stays(self) -> None:
        """The box keeps its release, however long it runs."""
        self.run_for(100)
        self.assertEqual((self.bench.status.stage, self.refused), (Stage.IDLE, []))

    def leave(self, after: int) -> None:
        """Let the trial end after so many hours, and the last good release be installed again."""
        self.run_for(after)
        self.answer(NOBODY)
        self.install_last_good()

    def go_back(self, after: int = 72) -> None:
        """Let the trial end, and the box roll back."""
        self.leave(after)
        self.come_back(REASON, "third boot")


class ProofTests(TrialCase):
    """When a release is proven, and becomes the last good one."""

    def test_at_once(self) -> None:
        """An agent that reaches the server while it confirms its release proves it at once."""
        self.confirm(NEW)
        self.assertEqual(self.archives.last_good, KEPT)
        self.assertEqual(self.bench.status.message, f"The box runs release {NEW}.")
        self.assertIsNone(self.on_disk().trial)

    def test_later(self) -> None:
        """Until a check succeeds, the release before is the last good one."""
        self.confirm()
        self.assertEqual(
            self.bench.status.last_attempt.reason if self.bench.status.last_attempt else "",
            f"The box runs release {NEW}. Its agent has not reached the update server yet.",
        )
        self.assertEqual(self.bench.status.available, NEW)
        self.assertEqual(self.archives.last_good, GOOD)
        self.boot("third boot")
        for error in (NOBODY, Untrusted("It is another."), OSError(errno.EIO, "Input error")):
            self.check(error)
            self.assertEqual(self.archives.last_good, GOOD)
        self.check(None)
        self.assertEqual(self.archives.last_good, KEPT)
        self.assertIsNone(self.on_disk().trial)

    def test_lost_root(self) -> None:
        """The check of an agent that has lost its trusted root proves nothing."""
        self.confirm()
        self.patch(StepOfferLookup, "unsigned", False)
        self.check(NEW)
        self.assertEqual(self.archives.last_good, GOOD)
        (self.folder / "root.json").write_text("{}")
        self.check(Offer(NEW, signed=True))
        self.assertEqual(self.archives.last_good, KEPT)

    def test_no_answer(self) -> None:
        """A server that does not answer delays the end of the update by a minute only."""
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
        """An agent that dies in a check has not confirmed its release."""
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
        """If the disk fails, the next check tries again."""
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
        """A release whose archive is lost is proven, but is not the last good one."""
        self.confirm()
        self.bench.archives.lost = True
        self.check(NEW)
        self.assertEqual(self.archives.last_good, GOOD)
        self.assertIsNone(self.on_disk().trial)
        self.run_for(80)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)

    def test_next_release(self) -> None:
        """A release that finds the next one is proven before that is downloaded."""
        self.confirm()
        self.find(NEWER)
        self.assertEqual(self.bench.steps.names[-1], "fetch")
        self.assertEqual(self.archives.last_good, KEPT)

    def test_failed_update(self) -> None:
        """An update that fails in its check does not end the trial."""
        self.confirm()
        self.bench.updater.begin()
        self.bench.steps.fail(NOBODY)
        trial = self.on_disk().trial
        self.assertEqual(trial and trial.release.version, NEW)
        self.leave(after=72)

    def test_first_update(self) -> None:
        """Without a last good release, a healthy one becomes it at once."""
        (self.folder / "last-good").unlink()
        self.confirm()
        self.assertEqual(self.archives.last_good, KEPT)
        self.assert_stays()

    def test_adopted(self) -> None:
        """A release that somebody adopts meanwhile stays."""
        self.confirm()
        self.archives.keep_as_last_good(KEPT)
        self.assert_stays()

    def test_older_journal(self) -> None:
        """A release that was confirmed by an older agent, without a trial, is good."""
        self.confirm()
        content = json.loads(self.bench.journal_path.read_text())
        for key in ("trial", "doubted", "acquitted", "looked"):
            del content[key]
        self.bench.journal_path.write_text(json.dumps(content))
        self.boot("third boot")
        self.run_for(100)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)

    def test_newer_journal(self) -> None:
        """Unknown keys in the journal are ignored."""
        self.confirm()
        self.change_journal(unheard_of={"a": 1})
        self.assertEqual(Journal(self.bench.journal_path, "").trouble, "")


class ReturnTests(TrialCase):
    """The box leaves a release that cannot reach the server, once."""

    def test_three_days(self) -> None:
        """After three days, and a last check, the box rolls back, and says why."""
        self.confirm()
        self.bench.journal.write(fetched=4)
        self.run_for(71)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.go_back(after=1)
        self.assertEqual(self.refused, [NEW])
        attempts = self.on_disk().attempts
        self.assertEqual([each.id for each in attempts], [1, 2])
        # The rollback is an attempt of its own, without a download.
        self.assertIsNone(attempts[-1].fetched)

    def test_over_all_boots(self) -> None:
        """The uptime is counted over all boots."""
        self.confirm()
        self.run_for(40)
        self.boot("third boot")
        self.run_for(31)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.leave(after=1)

    def test_short_boots(self) -> None:
        """A box that is switched off within each hour rolls back, too."""
        self.confirm()
        for number in range(95):
            self.bench.clock.advance(45 * 60)
            self.boot(f"boot {number}")
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.bench.clock.advance(45 * 60)
        self.answer(NOBODY)
        self.install_last_good()

    def test_stopped(self) -> None:
        """An agent that is stopped records the uptime so far."""
        self.confirm()
        self.bench.clock.advance(300)
        self.bench.updater.stopService()
        trial = self.on_disk().trial
        assert trial is not None
        self.assertEqual(trial.uptime, 300)

    def test_last_check(self) -> None:
        """If the last check succeeds, the release is proven."""
        self.confirm()
        self.run_for(72)
        self.answer(NEW)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)
        self.assertEqual(self.archives.last_good, KEPT)

    def test_not_during_an_update(self) -> None:
        """The end of the trial does not interrupt an update."""
        self.confirm()
        self.run_for(71)
        self.bench.updater.begin()
        self.run_for(1)
        self.assertEqual(self.bench.status.stage, Stage.CHECKING)
        self.bench.steps.fail(NOBODY)
        self.leave(after=1)

    def test_disk_full(self) -> None:
        """Uptime that cannot be recorded counts nevertheless."""
        self.confirm()
        self.run_for(70)
        self.fill_disk()
        self.leave(after=2)

    def test_unfit(self) -> None:
        """A box that cannot roll back now goes on checking, and rolls back when it can."""
        self.confirm()
        self.bench.preflight.unfit = BoxUnfit("The box cannot write in /opt.")
        self.run_for(72)
        self.answer(NOBODY)
        self.assertEqual((self.bench.status.stage, self.refused), (Stage.IDLE, []))
        self.bench.preflight.unfit = None
        self.leave(after=1)

    def test_no_way_back(self) -> None:
        """If the archive of the last good release is damaged, the box does not roll back."""
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
        """The rollback waits for the end of a measurement."""
        self.confirm()
        self.run_for(71)
        self.bench.config.inhibit_file.touch()
        self.run_for(1)
        self.answer(NOBODY)
        self.assertIn("Waiting for a measurement to end", self.bench.status.message)
        self.bench.config.inhibit_file.unlink()
        self.bench.clock.advance(60)
        self.install_last_good()

    def test_never_reached(self) -> None:
        """If the release before is not known to have reached the server, the new one stays."""
        self.confirm()
        content = json.loads(self.bench.journal_path.read_text())
        content["trial"]["looked_before"] = 0
        self.bench.journal_path.write_text(json.dumps(content))
        self.boot("third boot")
        self.assert_stays()

    def test_to_blame(self) -> None:
        """If the old agent reaches the server at once, the new release stays blocked."""
        self.confirm()
        self.go_back()
        self.check(NEW)
        self.assertEqual((self.refused, self.on_disk().doubted), ([NEW], None))
        self.assertFalse(self.bench.updater.is_due)
        self.assertIn(f"Release {NEW} is blocked: {REASON}", self.bench.status.message)
        self.check(NOBODY)
        self.assertEqual(self.refused, [NEW])

    def test_network_to_blame(self) -> None:
        """If it does not reach the server either, the new release is unblocked."""
        self.confirm()
        self.go_back()
        for error in (ClockBehind("Wait."), OSError(errno.EIO, os.strerror(errno.EIO))):
            self.check(error)
            self.assertEqual(self.refused, [NEW], "that says nothing of the network")
        self.check(NOBODY)
        self.assertEqual(self.refused, [])
        self.run_for(30 * 24)
        self.assert_at_rest(OLD)
        self.check(NEW)
        self.assertTrue(self.bench.updater.is_due)

    def test_once(self) -> None:
        """A release that cannot reach the server a second time stays blocked."""
        self.test_network_to_blame()
        self.confirm_again()
        self.leave(after=72)
        self.boot("sixth boot")
        self.bench.steps.succeed(0)
        self.check(NOBODY)
        self.assertEqual((self.refused, self.on_disk().doubted), ([NEW], None))
        self.check(NEW)
        self.assertFalse(self.bench.updater.is_due)

    def confirm_again(self) -> None:
        """Install the release once more."""
        self.click("reboot")
        self.bench.set_installed(NEW)
        self.boot("fifth boot")
        self.bench.steps.succeed()
        self.answer(NOBODY)
        self.assertEqual(self.bench.status.stage, Stage.IDLE)

    def test_own_check(self) -> None:
        """A check of the new agent during the rollback is no verdict."""
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
        """A release that the box could not leave is unblocked by its next successful check."""
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
    """Another release runs than the one that is on trial."""

    def test_rescued(self) -> None:
        """A confirmed release that the rescue script has replaced is blocked."""
        self.confirm()
        (self.folder / "rescued").write_text(f"{OLD}\n")
        self.bench.set_installed(OLD)
        self.boot("third boot")
        self.assert_returned(
            "Its agent did not start, or made no progress, and the rescue script installed the "
            "last good release again."
        )
        self.assertEqual((self.refused, self.on_disk().trial), ([NEW], None))
        self.assertFalse((self.folder / "rescued").exists())

    def test_by_hand(self) -> None:
        """If somebody installs another release by hand, none is blocked."""
        self.confirm()
        self.bench.set_installed(NEWER)
        self.boot("third boot")
        self.assertEqual((self.refused, self.on_disk().trial), ([], None))
        self.run_for(100)
        self.assert_at_rest(NEWER)

    def test_unreadable(self) -> None:
        """If the version cannot be read, the trial goes on."""
        self.confirm()
        self.bench.version_file.unlink()
        self.boot("third boot")
        self.assertIsNotNone(self.on_disk().trial)
