"""The estimate of the rest of an update."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.state.stages import Stage
from opq_twisted.box.state.status import Progress, Status
from opq_twisted.box.web.estimate import Estimate, estimate
from opq_twisted.box.web.view_model import describe_left

NOW = 1_700_000_000.0

#: 200 seconds in all.
TOOK = {
    "downloading": 40.0,
    "verifying": 2.0,
    "unpacking": 8.0,
    "installing": 70.0,
    "rebooting": 30.0,
    "confirming": 50.0,
}


class EstimateTests(SynchronousTestCase):
    """`estimate`."""

    def guess(self, stage: str, elapsed: float = 0.0, **more: Any) -> Estimate | None:
        reached = Stage(stage)
        status = {"message": reached.message, "stage_took": TOOK, **more}
        return estimate(Status(stage=reached, stage_since=NOW - elapsed, **status), NOW)

    def sure(self, stage: str, elapsed: float = 0.0, **more: Any) -> Estimate:
        guess = self.guess(stage, elapsed, **more)
        assert guess is not None
        return guess

    def test_stages(self) -> None:
        """Each stage has the share of the bar that it took of the last update."""
        for stage, elapsed, done, left in (
            ("verifying", 1, 0.205, 159),
            ("unpacking", 4, 0.23, 154),
            ("installing", 35, 0.425, 115),
            ("rebooting", 0, 0.6, 80),
            ("confirming", 25, 0.875, 25),
        ):
            with self.subTest(stage=stage):
                guess = self.sure(stage, elapsed)
                self.assertAlmostEqual(guess.done, done)
                self.assertAlmostEqual(guess.pace, 1 / 200)
                self.assertEqual(guess.left, left)

    def test_download(self) -> None:
        """A download is estimated by its rate."""
        guess = self.sure("downloading", 999, progress=Progress(5_000_000, 20_000_000, 1e6))
        self.assertEqual((guess.done, guess.pace, guess.left), (0.05, 0.0, 175))
        stalled = self.sure("downloading", progress=Progress(5_000_000, 20_000_000, 0.0))
        self.assertEqual((stalled.done, stalled.left), (0.05, None))
        waiting = self.sure("downloading")
        self.assertEqual((waiting.done, waiting.left), (0.0, None))

    def test_part_of_a_download(self) -> None:
        """Only the bytes that travel count, and a download without any has no time."""
        for progress, done, left in (
            (Progress(0, 80_000, 0.0, 9_920_000), 0.0, None),
            (Progress(20_000, 80_000, 1e4, 9_920_000), 0.05, 166),
            (Progress(80_000, 80_000, 1e4, 9_920_000), 0.2, 160),
            (Progress(90_000, 80_000, 0.0, 9_920_000), 0.2, 160),
            (Progress(0, 0, 0.0, 10_000_000), 0.2, 160),
        ):
            with self.subTest(progress=progress):
                guess = self.sure("downloading", progress=progress)
                self.assertAlmostEqual(guess.done, done)
                self.assertEqual(guess.left, left)

    def test_no_whole_download(self) -> None:
        """A box that has always copied a part knows no time of a download, and needs none."""
        took = {stage: seconds for stage, seconds in TOOK.items() if stage != "downloading"}
        progress = Progress(20_000, 80_000, 1e4, 9_920_000)
        self.assertEqual(self.sure("downloading", stage_took=took, progress=progress).left, 166)
        self.assertEqual(self.sure("verifying", 1, stage_took=took).left, 159)

    def test_first_update(self) -> None:
        """Before the first update the bar moves, and no time is given."""
        for took in ({}, {"installing": 70.0}):
            guess = self.sure("installing", 10, stage_took=took)
            self.assertIsNone(guess.left)
            self.assertTrue(0.2 < guess.done < 0.5)

    def test_late(self) -> None:
        """A stage that takes much longer than last time has no time, and does not fill its part."""
        self.assertEqual(self.sure("installing", 100).left, 80)
        late = self.sure("installing", 5000)
        self.assertIsNone(late.left)
        self.assertAlmostEqual(late.done, 0.25 + 0.95 * 0.35)
        self.assertAlmostEqual(late.limit, late.done)

    def test_pause(self) -> None:
        """While the update waits for something there is no time."""
        waiting = self.sure("unpacking", message="Waiting for a measurement to end.")
        self.assertEqual((waiting.left, waiting.pace), (None, 0.0))

    def test_clock(self) -> None:
        """A clock that was set back, or an unknown begin, is no harm."""
        self.assertEqual(self.sure("installing", -1e9).left, 150)
        self.assertEqual(self.sure("installing", stage_took=dict.fromkeys(TOOK, 0.0)).left, 3)

    def test_no_update(self) -> None:
        """A check is the beginning; at rest and on the way back there is nothing to estimate."""
        self.assertEqual(self.guess("checking"), Estimate(0.0))
        for stage in ("idle", "failed", "returning"):
            self.assertIsNone(self.guess(stage))

    def test_words(self) -> None:
        """The time left is rough, and not counted in seconds."""
        for seconds, words in (
            (None, ""),
            (0, "less than a minute left"),
            (60, "about 1 minute left"),
            (89, "about 1 minute left"),
            (240, "about 4 minutes left"),
            (7200, "about 2 hours left"),
        ):
            self.assertEqual(describe_left(seconds), words)
