"""The texts of the box's page for each state."""

from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.state.records import Attempt
from opq_twisted.box.state.stages import STEPS, Stage
from opq_twisted.box.state.status import Progress, Status
from opq_twisted.box.web.view_model import View, view
from tests.helpers.box_fakes import NEW, OLD

NOW = 1_700_100_000.0


class ViewTests(SynchronousTestCase):
    """The texts for a status."""

    def view(self, **status: Any) -> View:
        return view(Status(**{"installed": OLD, "last_check": NOW - 60, **status}), NOW)

    def test_headlines(self) -> None:
        """Each state has a headline and a tone."""
        returned = Attempt(NEW, NOW - 900, NOW - 300, "returned", "It is not healthy.", 1)
        failed = Attempt(NEW, NOW - 90, NOW - 30, "failed", "Make room.", 1)
        updated = Attempt(NEW, NOW - 900, NOW - 300, "updated", "The box runs it.", 1)
        for status, tone, headline in (
            ({"available": OLD}, "good", "The box is up to date"),
            ({"last_check": None}, "news", "The box has not checked for updates since it started"),
            ({"last_check": None, "last_attempt": updated}, "good", "The box has been updated"),
            (
                {"available": NEW, "last_check": NOW - 310, "last_attempt": updated},
                "good",
                "The box has been updated",
            ),
            ({"available": NEW, "last_attempt": updated}, "good", "The box is up to date"),
            ({}, "good", "There is no update"),
            ({"available": NEW, "update_available": True}, "news", "An update is available"),
            ({"trouble": "Nobody is there."}, "bad", "The box cannot get updates"),
            (
                {"stage": Stage.FAILED, "trouble": "Nobody is there."},
                "bad",
                "The last update failed",
            ),
            ({"stage": Stage.FAILED, "last_attempt": failed}, "bad", "The last update failed"),
            # A later check, successful or not.
            (
                {
                    "stage": Stage.FAILED,
                    "last_attempt": failed,
                    "last_check": NOW - 10,
                    "trouble": "Nobody is there.",
                },
                "bad",
                "The box cannot get updates",
            ),
            (
                {"stage": Stage.FAILED, "last_attempt": failed, "last_check": NOW - 10},
                "good",
                "There is no update",
            ),
            ({"last_attempt": returned}, "bad", "The box went back to its last good release"),
            # Before the first check, the installed release stands for the newest one.
            (
                {"last_attempt": returned, "installed": 1, "available": 1, "last_check": None},
                "bad",
                "The box went back to its last good release",
            ),
            ({"stage": Stage.CHECKING}, "busy", "Looking for an update"),
            ({"stage": Stage.INSTALLING}, "busy", "Updating the box"),
            ({"stage": Stage.REBOOTING}, "busy", "The box is rebooting"),
            ({"stage": Stage.ROLLING_BACK}, "busy", "Going back to the last good release"),
        ):
            with self.subTest(status=status):
                shown = self.view(**status)
                self.assertEqual((shown.tone, shown.headline), (tone, headline))

    def test_steps(self) -> None:
        """Each stage has its step; going back is the step of the installation."""
        steps = ["Check", "Download", "Verify", "Unpack", "Install", "Reboot", "Confirm"]
        self.assertEqual(list(STEPS), steps)
        for step, stage in [
            *enumerate(["checking", "downloading", "verifying", "unpacking", "installing"]),
            (5, "rebooting"),
            (6, "confirming"),
            (4, "returning"),
            (None, "idle"),
            (None, "failed"),
        ]:
            shown = self.view(stage=Stage(stage))
            self.assertEqual((shown.step, shown.at_rest), (step, step is None))
            self.assertEqual(shown.installs, step == 4)
            self.assertEqual(shown.may_reboot, stage in ("rebooting", "returning"))

    def test_newest(self) -> None:
        """The available release is known after an update, and differs from none and unknown."""
        for status, words in (
            ({}, "none"),
            ({"available": NEW}, ""),
            ({"available": OLD}, "nothing newer"),
            ({"available": OLD, "last_check": None}, "nothing newer is known"),
            ({"available": OLD, "trouble": "Nobody is there."}, "unknown"),
            ({"last_check": None}, "unknown"),
            ({"trouble": "Nobody is there."}, "unknown"),
        ):
            with self.subTest(status=status):
                self.assertEqual(self.view(**status).newest, words)

    def test_action(self) -> None:
        """The page has the action that makes sense now, if there is one."""
        offered = {"available": NEW, "update_available": True}
        failed = Attempt(NEW, NOW - 90, NOW - 30, "failed", "Make room.", 1)
        updated = evolve(failed, outcome="updated", version=OLD)
        for status, action in (
            (offered, "update"),
            ({**offered, "stage": Stage.DOWNLOADING}, ""),
            ({**offered, "stage": Stage.FAILED, "last_attempt": failed}, "update"),
            ({**offered, "trouble": "Nobody is there."}, "check"),
            ({"stage": Stage.FAILED, "last_attempt": failed}, "check"),
            ({"available": OLD}, ""),
            ({"available": OLD, "last_check": None}, "check"),
            ({"available": OLD, "last_check": None, "last_attempt": updated}, ""),
        ):
            with self.subTest(status=status):
                self.assertEqual(self.view(**status).action, action)

    def test_question(self) -> None:
        """Only before a release is installed that has been stopped, the page asks once more."""
        offered = {"available": NEW, "update_available": True}
        self.assertEqual(self.view(**offered).question, "")
        self.assertIn("nevertheless?", self.view(**offered, held=True).question)
        self.assertEqual(self.view(**offered, held=True, stage=Stage.UNPACKING).question, "")

    def test_promise(self) -> None:
        """The page says what a click does and how long that took last time."""
        offered = {"available": NEW, "update_available": True, "size": 12_340_000}
        self.assertEqual(
            self.view(**offered, last_took=231.0).promise,
            "The box downloads at most 12.3 MB, installs the release and reboots. While it "
            "installs and reboots it measures nothing. Last time that took about 4 minutes.",
        )
        self.assertEqual(
            self.view(**{**offered, "size": None}).promise,
            "The box downloads it, installs the release and reboots. While it installs and "
            "reboots it measures nothing.",
        )
        for status in ({}, {**offered, "stage": Stage.DOWNLOADING}):
            self.assertEqual(self.view(**status).promise, "")

    def test_progress(self) -> None:
        """A download has its bytes and its rate as far as they are known."""
        for progress, words in (
            (None, ""),
            (Progress(3_210_000, 12_300_000, 1e6), "3.2 MB of 12.3 MB, 1.0 MB a second"),
            (Progress(5, 10, 0.0), "0.00 MB of 0.00 MB, 0.00 MB a second"),
            (Progress(3_210_000, None, 1e6), "3.2 MB, 1.0 MB a second"),
            (
                Progress(50_000, 80_000, 2e5, 12_220_000),
                "0.05 MB of 0.08 MB, 0.2 MB a second; the other 12.2 MB are here already",
            ),
        ):
            with self.subTest(progress=progress):
                self.assertEqual(self.view(progress=progress).progress, words)

    def test_told(self) -> None:
        """The outcome of the last update is told while it matters, and only once."""
        returned = Attempt(
            NEW,
            NOW - 900,
            NOW - 300,
            "returned",
            f"Release {NEW} failed, and the box runs release {OLD} again. It is not healthy.",
            1,
        )
        blocked = f"Release {NEW} is blocked: It is not healthy."
        later = f"Release {NEW} is not installed: It is not healthy. The box tries again later."
        for message, words in (
            (returned.reason, "It is not healthy."),
            (blocked, "It is not healthy. The box does not install it again by itself."),
            (later, later),
            (f"Release {NEW} is available.", "It is not healthy."),
        ):
            with self.subTest(message=message):
                shown = self.view(last_attempt=returned, available=NEW, message=message)
                self.assertEqual((shown.message, shown.reports_last), (words, True))

    def test_over(self) -> None:
        """An outcome that is over is not told: it stands in the history."""
        ended = Attempt(NEW, NOW - 900, NOW - 300, "returned", "It is not healthy.", 1)
        failed = evolve(ended, outcome="failed")
        for status in (
            {"last_attempt": ended, "available": OLD},
            {"last_attempt": ended, "available": NEW + 9, "update_available": True},
            {"last_attempt": evolve(ended, ended=NOW - 90_000), "available": NEW},
            {"last_attempt": evolve(ended, ended=NOW + 900), "available": NEW},
            {"last_attempt": failed, "stage": Stage.FAILED, "available": OLD},
            {"last_attempt": failed, "stage": Stage.DOWNLOADING},
        ):
            with self.subTest(status=status):
                shown = self.view(message="It is not healthy.", **status)
                self.assertEqual((shown.message, shown.reports_last), ("", False))
                self.assertNotEqual(shown.tone, "bad")

    def test_said_once(self) -> None:
        """A message that repeats the headline is hidden, or says something else."""
        self.assertEqual(self.view(available=OLD, message="The box is up to date.").message, "")
        self.assertEqual(self.view(message="The disk is full.").message, "The disk is full.")
        message = f"Release {NEW} is available."
        shown = self.view(available=NEW, update_available=True, message=message)
        self.assertEqual(shown.message, f"Release {NEW} is ready to install.")
