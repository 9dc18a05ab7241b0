"""The tiny releases of the demo."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from demo.small_releases import draw, make_release
from opq_twisted.archive.extract.unpack import unpack

VERSION = 1547860803
NUMBERS = range(1, 26)


class SmallReleaseTests(SynchronousTestCase):
    """`make_release` makes a real archive."""

    def test_draw(self) -> None:
        """Each step has about as many boxes as its share says; the box's unpacker takes it."""
        folder = Path(self.mktemp()).absolute()
        archive = make_release(VERSION, folder, NUMBERS, (0.2, 0.5))
        first, second = (draw(archive, VERSION, NUMBERS, share) for share in (0.2, 0.5))
        self.assertEqual(len(first), 5)
        self.assertIn(len(second), (12, 13))
        self.assertLess(set(first), set(second))
        self.assertEqual(draw(archive, VERSION, NUMBERS, 1), list(NUMBERS))
        unpack(archive, folder / "unpacked", VERSION)
