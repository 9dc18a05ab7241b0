"""Tests of the hours in which rollouts are widened."""

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.widen_hours import WidenHours
from tests.helpers.time_zones import EUROPE, at, move_to


class WidenHoursTests(SynchronousTestCase):
    """What is in the hours, and what is no text for them."""

    def setUp(self) -> None:
        move_to(self, EUROPE)

    def test_days_and_hours(self) -> None:
        """The last hour is not included; the days are those of the local time."""
        hours = WidenHours.parse("mon-Thu/08-16")
        for day, shown, included in (
            ("2026-11-30", "08:00", True),
            ("2026-12-03", "15:59", True),
            ("2026-11-30", "07:59", False),
            ("2026-11-30", "16:00", False),
            ("2026-12-04", "12:00", False),
            ("2026-12-06", "12:00", False),
        ):
            self.assertEqual(hours.include(at(day, shown)), included, (day, shown))

    def test_summer(self) -> None:
        """In summer the hours are those of the summer time."""
        hours = WidenHours.parse("Wed/08-16")
        self.assertTrue(hours.include(at("2026-07-01", "08:00", ahead=2)))
        self.assertFalse(hours.include(at("2026-07-01", "16:00", ahead=2)))

    def test_week_end(self) -> None:
        """Days may go over the end of the week, and an hour may be the last one of a day."""
        hours = WidenHours.parse("Sat-Mon/00-24")
        days = [hours.include(at(f"2026-12-0{day}", "23:59")) for day in range(1, 8)]
        self.assertEqual(days, [False, False, False, False, True, True, True])

    def test_always(self) -> None:
        """Without an option there is no other hour."""
        moments = [at("2026-11-30", "00:00") + 3600 * each for each in range(7 * 24)]
        self.assertTrue(all(map(WidenHours().include, moments)))

    def test_nonsense(self) -> None:
        """Anything else is refused."""
        for text in (
            *("", "Mon", "Mon/", "Mon/8-16", "Mon/08-16 ", "Mon/08:00-16:00", "08-16"),
            *("Mon-/08-16", "Mon-Tue-Wed/08-16", "Mo/08-16", "Monday/08-16", "Mon,Tue/08-16"),
            *("Mon/08-25", "Mon/16-08", "Mon/08-08", "Mon/24-24", "Mon/-8-16", "Mon/٠٨-١٦"),
        ):
            self.assertRaises(ValueError, WidenHours.parse, text)
