"""The texts of the box's page for each state."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.state.records import STEPS, Attempt, Stage
from opq_twisted.box.state.status import Progress, Status
from opq_twisted.box.web.view_model import View, describe, moment, view
from tests.helpers.box_fakes import NEW, OLD
from tests.helpers.time_zones import move_to

NOW = 1_700_100_000.0


class ViewTests(SynchronousTestCase):
    """The texts for a status."""

    def setUp(self) -> None:
        move_to(self, "UTC")

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

    def test_releases(self) -> None:
        """A release is shown with its build time in local time."""
        self.assertEqual(self.view().installed, f"14 November 2023, 22:13 UTC ({OLD})")
        move_to(self, "HST10")
        self.assertEqual(self.view().installed, f"14 November 2023, 12:13 HST ({OLD})")

    def test_no_release(self) -> None:
        """No release is shown differently from an unknown one."""
        self.assertEqual(self.view().available, "none")
        self.assertEqual(self.view(last_check=None).available, "unknown")
        self.assertEqual(self.view(trouble="Nobody is there.").available, "unknown")
        self.assertEqual(self.view(installed=None).installed, "unknown")

    def test_no_moment(self) -> None:
        """An impossible time is shown as a number."""
        self.assertEqual(moment(1e18), "1000000000000000000")
        self.assertIn("next check is at", self.view(next_check=1e18).checked)

    def test_promise(self) -> None:
        """An idle box's page says what a click does and how long that took last time."""
        offered = {"available": NEW, "update_available": True, "size": 12_340_000}
        self.assertEqual(
            self.view(**offered, last_took=231.0).promise,
            "The box downloads 12.3 MB, installs the release and reboots. While it installs and "
            "reboots it measures nothing. Last time that took about 4 minutes.",
        )
        self.assertEqual(
            self.view(**{**offered, "size": None}).promise,
            "The box downloads it, installs the release and reboots. While it installs and "
            "reboots it measures nothing.",
        )
        for status in ({}, {**offered, "trouble": "Nobody is there."}):
            self.assertIn("if there is one it installs it", self.view(**status).promise)
        self.assertEqual(self.view(**offered, stage=Stage.DOWNLOADING).promise, "")

    def test_progress(self) -> None:
        """A download has its bytes, its rate, and the remaining time as far as it is known."""
        for progress, words in (
            (None, ""),
            (
                Progress(3_210_000, 12_300_000, 1e6),
                "3.2 MB of 12.3 MB, 1.0 MB a second, about 9 seconds left",
            ),
            (
                Progress(0, 123_000_000, 1e6),
                "0.0 MB of 123.0 MB, 1.0 MB a second, about 2 minutes left",
            ),
            (
                Progress(0, 123_000_000, 1e4),
                "0.0 MB of 123.0 MB, 0.0 MB a second, about 3 hours left",
            ),
            (Progress(5, 10, 0.0), "0.0 MB of 0.0 MB, 0.0 MB a second"),
            (Progress(3_210_000, None, 1e6), "3.2 MB, 1.0 MB a second"),
        ):
            with self.subTest(progress=progress):
                self.assertEqual(self.view(progress=progress).progress, words)

    def test_checked(self) -> None:
        """The times of the last check and the next one are shown as far as they are known."""
        self.assertEqual(
            self.view(next_check=NOW + 60).checked,
            "The last check was on 16 November 2023, 01:59 UTC. The next check is at 02:01.",
        )
        self.assertEqual(self.view(last_check=None).checked, "")

    def test_outcome(self) -> None:
        """The reason of a failed update is shown for a day, and not twice."""
        ended = Attempt(NEW, NOW - 900, NOW - 300, "failed", "Make room.", 1)
        self.assertEqual(self.view(last_attempt=ended).outcome, "Make room.")
        for status in (
            {"message": "Make room."},
            {"message": f"Release {NEW} is blocked: Make room."},
            {"last_attempt": Attempt(NEW, NOW - 900, NOW - 300, "updated", "The box runs it.", 1)},
            {"stage": Stage.DOWNLOADING},
            {"last_attempt": Attempt(NEW, 1.0, NOW - 90_000, "failed", "Make room.", 1)},
            {"last_attempt": Attempt(NEW, 1.0, NOW + 900, "failed", "Make room.", 1)},
        ):
            with self.subTest(status=status):
                self.assertEqual(self.view(**{"last_attempt": ended, **status}).outcome, "")

    def test_said_once(self) -> None:
        """A message that repeats the headline is hidden."""
        self.assertEqual(self.view(available=OLD, message="The box is up to date.").message, "")
        self.assertEqual(self.view(message="The disk is full.").message, "The disk is full.")

    def test_account(self) -> None:
        """An attempt has a time, a duration and, if it is known, a release."""
        ended = Attempt(NEW, NOW - 240, NOW, "failed", "Make room.", 1)
        release = self.view(available=NEW).available
        self.assertEqual(
            describe(ended), f"16 November 2023, 02:00 UTC, about 4 minutes, release of {release}"
        )
        unknown = Attempt(None, NOW - 1, NOW, "failed", "Nobody is there.", 2)
        self.assertEqual(describe(unknown), "16 November 2023, 02:00 UTC, about 1 second")
