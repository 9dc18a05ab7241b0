"""Tests of noticing a cloned card."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.reports.clones import CLONE_AGE, MAX_BOOTS, detect_clone
from opq_twisted.fleet.reports.rows import StoredBox

BOX = StoredBox(key_id="0" * 32, pubkey=bytes(32))


def after(*boots: str) -> StoredBox:
    """Return a box after reports from these starts, one each second."""
    box = BOX
    for second, boot in enumerate(boots, start=1):
        box = detect_clone(box, boot, float(second))
    return box


class TestBoots(SynchronousTestCase):
    """The starts of a machine."""

    def test_cloned(self) -> None:
        """A key that comes back to an earlier start is used by two machines."""
        self.assertEqual(after("a", "b", "a").cloned_at, 3)

    def test_last_time(self) -> None:
        """The time is that of the last sign, which stays when one machine is silent."""
        self.assertEqual(after("a", "b", "a", "b", "b", "c").cloned_at, 4)

    def test_solved(self) -> None:
        """A month after the last sign, the box is no longer shown as cloned."""
        cloned = after("a", "b", "a")
        for boot in ("a", "c"):
            self.assertEqual(detect_clone(cloned, boot, 3 + CLONE_AGE).cloned_at, 3)
            self.assertIsNone(detect_clone(cloned, boot, 4 + CLONE_AGE).cloned_at)
        self.assertEqual(detect_clone(cloned, "b", 4 + CLONE_AGE).cloned_at, 4 + CLONE_AGE)

    def test_clock_was_ahead(self) -> None:
        """A sign at a time that has not come yet does not stay until then."""
        cloned = after("a", "b", "a")
        self.assertIsNone(detect_clone(cloned, "c", 2 - CLONE_AGE).cloned_at)

    def test_three_machines(self) -> None:
        """The start of any of several machines is remembered."""
        self.assertEqual(after("a", "b", "c", "a").cloned_at, 4)

    def test_clone_that_starts_often(self) -> None:
        """A second machine that starts a few times does not hide the first one."""
        self.assertEqual(after("a", *map(str, range(MAX_BOOTS)), "a").cloned_at, MAX_BOOTS + 2)

    @given(st.lists(st.integers(1, 5), max_size=40))
    def test_one_machine(self, reports: list[int]) -> None:
        """A machine that starts as often as it likes is no clone, and needs bounded room."""
        boots = [f"{start}" for start, count in enumerate(reports) for _ in range(count)]
        box = after(*boots)
        self.assertIsNone(box.cloned_at)
        self.assertLessEqual(len(box.boots), MAX_BOOTS)
