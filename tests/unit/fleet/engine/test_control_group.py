"""Tests of the boxes that installed nothing."""

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.engine.control_group import ControlGroup, Controls

_HOUR = 3600.0


class TestControlGroup(SynchronousTestCase):
    """The boxes that were there at a moment tell whether the network was."""

    def test_well(self) -> None:
        """Boxes that were heard later than an installation takes are well."""
        group = ControlGroup([(0.0, 10), (2 * _HOUR, 7)], [], _HOUR)
        self.assertEqual(group.since(_HOUR / 2), Controls(7, 0))
        self.assertEqual(group.since(-2 * _HOUR), Controls(17, 0))

    def test_missing(self) -> None:
        """Boxes count as missing only at moments that their promise covers."""
        group = ControlGroup([(10 * _HOUR, 9)], [(5 * _HOUR, 8 * _HOUR)] * 2, _HOUR)
        self.assertEqual(group.since(3 * _HOUR).missing, 0)
        self.assertEqual(group.since(4.5 * _HOUR), Controls(9, 2))
        self.assertEqual(group.since(8 * _HOUR), Controls(9, 2))
        self.assertEqual(group.since(8.1 * _HOUR).missing, 0)

    def test_judgement(self) -> None:
        """A tenth is the limit, and five boxes are needed."""
        self.assertFalse(Controls(9, 1).are_silent)
        self.assertTrue(Controls(8, 1).are_silent)
        self.assertFalse(Controls(0, 0).are_silent)
        self.assertFalse(Controls(4, 0).can_tell)
        self.assertTrue(Controls(3, 2).can_tell)

    def test_explanation(self) -> None:
        """A small outage explains the silence of a box, and is none of the whole fleet."""
        small = Controls(96, 4)
        self.assertTrue(small.explain_silence)
        self.assertFalse(small.are_silent)
        self.assertFalse(Controls(98, 2).explain_silence)
        self.assertFalse(Controls(28, 2).explain_silence)
        self.assertTrue(Controls(8, 1).explain_silence)
