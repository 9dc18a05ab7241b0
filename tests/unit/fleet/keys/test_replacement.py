"""Tests of keys that report the same number of a box."""

from typing import Any

from opq_twisted.fleet.store.states import BoxState
from tests.helpers.apply_case import ApplyCase
from tests.helpers.reporting_box import DAY, HOUR, NOW, ReportingBox
from tests.helpers.store_case import on_each_database


class NumbersCase(ApplyCase):
    """An old box, and another one with the same number."""

    def setUp(self) -> None:
        super().setUp()
        self.old, self.new = ReportingBox(number=7), ReportingBox(number=7)
        self.apply(self.old.send(NOW))

    def row(self, box: ReportingBox) -> dict[str, Any]:
        """Return the row of a box."""
        return next(row for row in self.boxes() if row["key_id"] == box.key)

    def state(self, box: ReportingBox) -> str:
        """Return the state of a box."""
        return str(self.row(box)["state"])


@on_each_database
class TestReplaced(NumbersCase):
    """A new card in an old box."""

    def test_after_a_day(self) -> None:
        """The old key is replaced by the first report of the new one after a day of silence."""
        self.apply(self.new.send(NOW + HOUR))
        self.assertEqual(self.state(self.old), "known")
        self.apply(self.new.send(NOW + DAY + 1))
        self.assertEqual(self.state(self.old), "replaced")
        self.assertEqual(self.row(self.old)["replaced_by"], self.row(self.new)["id"])
        self.assertEqual(self.state(self.new), "known")

    def test_at_once(self) -> None:
        """A new key that appears after a day of silence takes the place with its first report."""
        self.apply(self.new.send(NOW + 2 * DAY))
        self.assertEqual(self.state(self.old), "replaced")

    def test_admitted(self) -> None:
        """An admitted key is never replaced without an operator; it may replace another one."""
        self.change(self.old.key, state=BoxState.ADMITTED)
        self.apply(self.new.send(NOW + 2 * DAY))
        self.assertEqual(self.state(self.old), "admitted")
        self.apply(self.old.send(NOW + 4 * DAY))
        self.assertEqual(self.state(self.new), "known")
        third = ReportingBox(number=7)
        self.apply(third.send(NOW + 4 * DAY))
        self.change(third.key, state=BoxState.ADMITTED)
        self.apply(third.send(NOW + 6 * DAY))
        self.assertEqual((self.state(self.old), self.state(self.new)), ("admitted", "replaced"))

    def test_both_alive(self) -> None:
        """Of two boxes that were heard side by side, none is replaced when one falls silent."""
        self.apply(self.new.send(NOW + HOUR))
        self.apply(self.old.send(NOW + 2 * HOUR))
        self.apply(self.new.send(NOW + 3 * DAY))
        self.assertEqual(self.state(self.old), "known")

    def test_older_key_goes_on(self) -> None:
        """The older key does not take the place of the newer one."""
        self.apply(self.new.send(NOW + HOUR))
        self.apply(self.old.send(NOW + 3 * DAY))
        self.assertEqual((self.state(self.old), self.state(self.new)), ("known", "known"))

    def test_no_number(self) -> None:
        """Boxes without a number are never taken for one."""
        first, second = ReportingBox(number=0), ReportingBox(number=0)
        self.apply(first.send(NOW), second.send(NOW + 3 * DAY))
        self.assertEqual((self.state(first), self.state(second)), ("known", "known"))

    def test_another_number(self) -> None:
        """A box that reports another number leaves the boxes with its old number alone."""
        self.apply(self.new.send(NOW + 2 * DAY, box=8))
        self.assertEqual(self.state(self.old), "known")

    def test_one_number_each(self) -> None:
        """A key that goes through the numbers takes one place, and hides no other silent box."""
        others = [ReportingBox(number=number) for number in (8, 9)]
        self.apply(*(each.send(NOW) for each in others))
        for number in (7, 8, 9, 7):
            self.apply(self.new.send(NOW + 2 * DAY, box=number))
        self.assertEqual(self.state(self.old), "replaced")
        self.assertEqual([self.state(each) for each in others], ["known", "known"])

    def test_distrusted(self) -> None:
        """A distrusted key takes nobody's place, and keeps its state."""
        self.apply(self.new.send(NOW + HOUR))
        self.change(self.new.key, state=BoxState.DISTRUSTED)
        self.apply(self.new.send(NOW + 2 * DAY))
        self.assertEqual((self.state(self.old), self.state(self.new)), ("known", "distrusted"))
        self.apply(ReportingBox(number=7).send(NOW + 4 * DAY))
        self.assertEqual((self.state(self.old), self.state(self.new)), ("replaced", "distrusted"))

    def test_old_card_again(self) -> None:
        """An old card that is put in again is a box again."""
        self.apply(self.new.send(NOW + 2 * DAY))
        self.apply(self.old.send(NOW + 3 * DAY))
        self.assertEqual((self.state(self.old), self.state(self.new)), ("known", "known"))
