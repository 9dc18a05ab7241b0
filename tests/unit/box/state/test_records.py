"""The durations of an update's stages."""

from collections.abc import Sequence

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.state.records import Attempt, Timing
from opq_twisted.box.state.stages import Stage

NOW = 1_700_000_000.0

#: The stages of an update, and the seconds in each.
UPDATE = (
    (Stage.CHECKING, 300.0),
    (Stage.DOWNLOADING, 60.0),
    (Stage.VERIFYING, 3.0),
    (Stage.UNPACKING, 10.0),
    (Stage.INSTALLING, 90.0),
    (Stage.REBOOTING, 40.0),
    (Stage.CONFIRMING, 70.0),
)
SPENT = {stage.value: seconds for stage, seconds in UPDATE[1:]}


def run(
    visits: Sequence[tuple[Stage, float]],
    timing: Timing | None = None,
    succeeded: bool = True,
    has_copied: bool = False,
) -> Timing:
    """Go through stages, and end the update."""
    timing, before, now = timing or Timing(), Stage.IDLE, NOW
    for stage, seconds in visits:
        timing = timing.enter(before, stage, now)
        before, now = stage, now + seconds
    return timing.end(before, now, succeeded=succeeded, has_copied=has_copied)


class AttemptTests(SynchronousTestCase):
    """`Attempt`."""

    def test_has_copied(self) -> None:
        """Bytes were copied if fewer than all travelled, as far as that is known."""
        for size, fetched, has_copied in (
            (10, 0, True),
            (10, 9, True),
            (10, 10, False),
            (10, 12, False),
            (None, 9, False),
            (10, None, False),
        ):
            with self.subTest(size=size, fetched=fetched):
                attempt = Attempt(None, NOW, NOW, "updated", "", 1, size, fetched)
                self.assertIs(attempt.has_copied, has_copied)


class TimingTests(SynchronousTestCase):
    """`Timing`."""

    def test_success(self) -> None:
        """A successful update leaves the durations of its stages, except for the check."""
        self.assertEqual(run(UPDATE), Timing(NOW + 573, {}, SPENT))

    def test_failure(self) -> None:
        """Another update does not change the durations."""
        known = run(UPDATE)
        failed = run([(Stage.CHECKING, 1.0), (Stage.DOWNLOADING, 5.0)], known, succeeded=False)
        self.assertEqual((failed.last, failed.spent), (SPENT, {}))

    def test_twice(self) -> None:
        """A stage that is entered twice counts twice; one that is resumed counts once."""
        again = [*UPDATE[:3], (Stage.DOWNLOADING, 30.0), *UPDATE[2:]]
        spent = run(again).last
        self.assertEqual((spent["downloading"], spent["verifying"]), (90.0, 6.0))
        resumed = [*UPDATE[:5], (Stage.INSTALLING, 20.0), *UPDATE[5:]]
        self.assertEqual(run(resumed).last["installing"], 110.0)

    def test_no_download(self) -> None:
        """The time of a download that was not needed is not kept."""
        stored = [UPDATE[0], (Stage.DOWNLOADING, 0.1), *UPDATE[3:]]
        self.assertNotIn("downloading", run(stored).last)
        self.assertEqual(run(stored, run(UPDATE)).last, SPENT)

    def test_copied(self) -> None:
        """The time of a download of which only a part travelled is not kept."""
        self.assertNotIn("downloading", run(UPDATE, has_copied=True).last)
        short = [UPDATE[0], (Stage.DOWNLOADING, 2.0), *UPDATE[2:]]
        self.assertEqual(run(short, run(UPDATE), has_copied=True).last, SPENT)

    def test_impossible(self) -> None:
        """A clock that is set makes no negative duration, and none of hours."""
        spent = run([*UPDATE[:4], (Stage.INSTALLING, -9e8), (Stage.REBOOTING, 9e8)]).last
        self.assertEqual(spent["installing"], 0.0)
        self.assertNotIn("rebooting", spent)
