"""What becomes of the small boxes of the demo."""

from twisted.trial.unittest import SynchronousTestCase

from demo.fates import Fate, Fates

GOOD, BAD = 1547860803, 1547947203


class FateTests(SynchronousTestCase):
    """`Fates` deals in turn."""

    def test_deal(self) -> None:
        """The fates of a release come in turn, again and again; without any, all is well."""
        fates = Fates({BAD: [Fate.RETURNED, Fate.SILENT]})
        dealt = [fates.deal(BAD) for _ in range(3)]
        self.assertEqual(dealt, [Fate.RETURNED, Fate.SILENT, Fate.RETURNED])
        self.assertEqual(fates.deal(GOOD), Fate.UPDATED)
