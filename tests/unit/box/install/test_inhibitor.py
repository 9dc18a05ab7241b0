"""The wait of an installation for a measurement."""

import os
from pathlib import Path

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.install.inhibitor import MAX_WAIT, Inhibitor
from tests.helpers.box_fakes import logged
from tests.helpers.time_zones import EUROPE, at, move_to

#: The starts of two updates.
FIRST, SECOND = 1700000000.0, 1700000001.0

SENTENCE = "Waiting for a measurement to end; the update goes on by 14:30 CET at the latest."


class InhibitorTests(SynchronousTestCase):
    """A file of the test."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.path = self.folder / "inhibit-update"
        self.clock = Clock()
        self.said: list[str] = []
        move_to(self, EUROPE)
        self.make(self.path)

    def make(self, path: Path) -> None:
        noon = at("2026-01-15", "13:30")
        self.inhibitor = Inhibitor(self.clock, path, lambda: noon + self.clock.seconds())

    def ask(self, update: float = FIRST) -> Deferred[None]:
        return Deferred.fromCoroutine(self.inhibitor.wait_until_released(update, self.said.append))

    def assert_free(self) -> None:
        self.successResultOf(self.ask())
        self.assertEqual(self.said, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def assert_held(self) -> None:
        asked = self.ask()
        self.assertNoResult(asked)
        self.assertEqual(self.said, [SENTENCE])
        asked.cancel()
        self.failureResultOf(asked, CancelledError)

    def test_free(self) -> None:
        """Without the file nothing waits."""
        self.assert_free()

    def test_held(self) -> None:
        """While the file exists, the update waits, reports once, and checks every few seconds."""
        self.path.touch()
        asked = self.ask()
        for _ in range(20):
            [look] = self.clock.getDelayedCalls()
            self.assertEqual(look.getTime(), self.clock.seconds() + 5)
            self.clock.advance(5)
            self.assertNoResult(asked)
        self.path.unlink()
        self.clock.advance(4.999)
        self.assertNoResult(asked)
        self.clock.advance(0.001)
        self.successResultOf(asked)
        self.assertEqual(self.said, [SENTENCE])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_latest(self) -> None:
        """The reported time is never earlier than the end of the wait."""
        self.clock.advance(2)
        self.path.touch()
        self.ask()
        self.assertEqual(self.said, [SENTENCE.replace("14:30", "14:31")])

    def test_forgotten(self) -> None:
        """A file that stays does not prevent updates for ever, and this is logged."""
        said = logged(self)
        self.path.touch()
        asked = self.ask()
        self.clock.pump([5.0] * int(MAX_WAIT / 5 - 1) + [4.999])
        self.assertNoResult(asked)
        self.clock.advance(0.001)
        self.successResultOf(asked)
        self.assertEqual(said, [f"{self.path} is still there after 60 minutes; the update goes on"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_same_update(self) -> None:
        """The time counts from the first call of an update; the next update has its own."""
        self.successResultOf(self.ask())
        self.path.touch()
        self.clock.advance(MAX_WAIT - 7)
        asked = self.ask()
        self.assertEqual(self.said, [SENTENCE])
        self.clock.pump([5, 1.999])
        self.assertNoResult(asked)
        self.clock.advance(0.001)
        self.successResultOf(asked)
        self.successResultOf(self.ask())
        self.assertNoResult(self.ask(SECOND))

    def test_cancelled(self) -> None:
        """The wait can be cancelled, and leaves nothing behind."""
        self.path.touch()
        asked = self.ask()
        self.clock.advance(7)
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_link(self) -> None:
        """A link counts, wherever it leads."""
        self.path.symlink_to(self.folder / "nowhere")
        self.assert_held()

    def test_circle(self) -> None:
        """A link to itself counts."""
        self.path.symlink_to(self.path)
        self.assert_held()

    def test_folder(self) -> None:
        """A folder of that name counts."""
        self.path.mkdir()
        self.assert_held()

    def test_no_folder(self) -> None:
        """A path in a missing folder, or in a file, does not count."""
        self.make(self.folder / "nowhere" / "inhibit-update")
        self.assert_free()
        self.path.touch()
        self.make(self.path / "inhibit-update")
        self.assert_free()

    def test_unreadable(self) -> None:
        """A path in an unreadable folder does not count: a broken box must be updated."""
        circle = self.folder / "circle"
        circle.symlink_to(circle)
        self.make(circle / "inhibit-update")
        self.assert_free()
        self.make(self.folder / ("x" * 300))
        self.assert_free()

        def refuse(path: Path) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        self.path.touch()
        self.make(self.path)
        self.patch(os, "lstat", refuse)
        self.assert_free()
