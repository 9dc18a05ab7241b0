"""Tests of the test that holds a release."""

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.engine.sequential_test import ALPHA, SequentialTest, interval


class TestSequentialTest(SynchronousTestCase):
    """A release is held as soon as its failures cannot be chance."""

    usual = SequentialTest.after(0, 0, 0.0)

    def test_limits(self) -> None:
        """With 1 % accepted, these numbers of bad boxes hold a release, and one less does not."""
        for bad, boxes in ((3, 5), (4, 20), (6, 100), (16, 500)):
            self.assertTrue(self.usual.rejects(bad, boxes), (bad, boxes))
            self.assertFalse(self.usual.rejects(bad - 1, boxes), (bad - 1, boxes))
            self.assertEqual(self.usual.holds_at(boxes), bad)

    def test_two(self) -> None:
        """Two bad boxes are never enough."""
        self.assertFalse(self.usual.rejects(2, 2))
        self.assertEqual(self.usual.holds_at(0), 3)

    def test_limit_is_the_test(self) -> None:
        """`holds_at` names the first number that is rejected."""
        for test in (self.usual, SequentialTest(0.02, 0.08)):
            for boxes in range(3, 3000, 7):
                at = test.holds_at(boxes)
                self.assertTrue(test.rejects(at, boxes))
                self.assertFalse(test.rejects(at - 1, boxes))

    def test_before(self) -> None:
        """What was normal with the release before is normal now, within limits."""
        self.assertEqual(self.usual.accepted, 0.01)
        self.assertEqual(self.usual.rejected, 0.05)
        self.assertEqual(SequentialTest.after(0, 100_000, 0.0), self.usual)
        worse = SequentialTest.after(60, 4000, 0.001)
        self.assertTrue(0.015 < worse.accepted < 0.02)
        self.assertEqual(worse.rejected, 4 * worse.accepted)
        self.assertEqual(SequentialTest.after(900, 1000, 0.5).accepted, 0.02)

    def test_wrong_holds(self) -> None:
        """A release that is as bad as accepted is held as rarely as promised."""
        random, held = Random(1), 0
        for _ in range(1000):
            bad = 0
            for boxes in range(1, 2001):
                bad += random.random() < self.usual.accepted
                if bad >= 3 and self.usual.rejects(bad, boxes):
                    held += 1
                    break
        self.assertLess(held / 1000, 2 * ALPHA)


class TestInterval(SynchronousTestCase):
    """Wilson's interval is the one of the textbooks."""

    def test_known(self) -> None:
        """Three of 224 boxes are 0.5 to 3.9 %."""
        low, high = interval(3, 224)
        self.assertAlmostEqual(low, 0.0046, places=4)
        self.assertAlmostEqual(high, 0.0386, places=4)

    def test_ends(self) -> None:
        """No box, and all boxes, have an interval too."""
        self.assertEqual(interval(0, 10)[0], 0.0)
        self.assertEqual(interval(10, 10)[1], 1.0)
