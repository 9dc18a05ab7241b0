"""The daily window, also on days with a change of daylight saving time."""

from collections.abc import Iterator
from datetime import time

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.config.window import DailyWindow
from tests.helpers.time_zones import EUROPE, at, move_to

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

#: An ordinary day, and those with a skipped and a repeated hour.
WINTER, FORWARD, BACK = "2026-01-15", "2026-03-29", "2026-10-25"


class WindowCase(SynchronousTestCase):
    """A box in Central Europe."""

    def setUp(self) -> None:
        move_to(self, EUROPE)

    def assert_opens(self, window: str, now: float, opens: float) -> None:
        """Assert that the window is closed now, and opens exactly then."""
        parsed = DailyWindow.parse(window)
        self.assertEqual(parsed.until_open(now), opens - now)
        self.assertEqual(parsed.until_closed(now), 0)
        for moment, is_open in ((now, False), (opens - 0.001, False), (opens, True)):
            self.assertEqual(parsed.is_open(moment), is_open)

    def assert_shuts(self, window: str, now: float, shuts: float) -> None:
        """Assert that the window is open now, and closes exactly then."""
        parsed = DailyWindow.parse(window)
        self.assertEqual(parsed.until_closed(now), shuts - now)
        self.assertEqual(parsed.until_open(now), 0)
        for moment, is_open in ((now, True), (shuts - 0.001, True), (shuts, False)):
            self.assertEqual(parsed.is_open(moment), is_open)


class ParseTests(WindowCase):
    """The form of a window."""

    def test_parsed(self) -> None:
        """A window is two times of the day, and can be worded."""
        for text, window, words in (
            ("02:00-04:00", DailyWindow(time(2), time(4)), "between 02:00 and 04:00"),
            ("23:30-00:15", DailyWindow(time(23, 30), time(0, 15)), "between 23:30 and 00:15"),
            ("00:00-23:59", DailyWindow(time(0), time(23, 59)), "between 00:00 and 23:59"),
        ):
            with self.subTest(text=text):
                self.assertEqual(DailyWindow.parse(text), window)
                self.assertEqual(str(window), words)

    def test_refused(self) -> None:
        """Anything else is refused, with an example."""
        for text in (
            *("", "02:00", "2:00-4:00", "02:00-24:00", "02:60-04:00", "02:00 - 04:00"),
            *("02:00-04:00\n", "-02:00-04:00", "02:00-04:00,05:00-06:00", "\u0662:00-04:00"),
            *("02:00:00-04:00:00", "9" * 1000),
        ):
            with self.subTest(text=text), self.assertRaises(ValueError) as caught:
                DailyWindow.parse(text)
            self.assertIn('must be like "02:00-04:00"', str(caught.exception))
            self.assertLess(len(str(caught.exception)), 100)

    def test_empty(self) -> None:
        """A window with equal times is refused, because its meaning is ambiguous."""
        with self.assertRaisesRegex(ValueError, "must not start and end at the same time, 02:00"):
            DailyWindow.parse("02:00-02:00")


class DayTests(WindowCase):
    """An ordinary day."""

    def test_within_a_day(self) -> None:
        """The first minute is in the window, and the last is not."""
        self.assert_opens("02:00-04:00", at(WINTER, "00:00"), at(WINTER, "02:00"))
        self.assert_opens("02:00-04:00", at(WINTER, "01:59:59.5"), at(WINTER, "02:00"))
        self.assert_shuts("02:00-04:00", at(WINTER, "02:00"), at(WINTER, "04:00"))
        self.assert_shuts("02:00-04:00", at(WINTER, "03:59:59.5"), at(WINTER, "04:00"))
        self.assert_opens("02:00-04:00", at(WINTER, "04:00"), at("2026-01-16", "02:00"))
        self.assert_opens("02:00-04:00", at(WINTER, "23:59"), at("2026-01-16", "02:00"))

    def test_over_midnight(self) -> None:
        """A window whose end is earlier than its start spans midnight."""
        self.assert_opens("23:00-01:30", at(WINTER, "12:00"), at(WINTER, "23:00"))
        self.assert_shuts("23:00-01:30", at(WINTER, "23:00"), at("2026-01-16", "01:30"))
        self.assert_shuts("23:00-01:30", at(WINTER, "00:00"), at(WINTER, "01:30"))
        self.assert_opens("23:00-01:30", at(WINTER, "01:30"), at(WINTER, "23:00"))

    def test_until_midnight(self) -> None:
        """A window may start or end at midnight."""
        self.assert_shuts("22:00-00:00", at(WINTER, "23:59"), at("2026-01-16", "00:00"))
        self.assert_opens("22:00-00:00", at(WINTER, "00:00"), at(WINTER, "22:00"))
        self.assert_opens("00:00-01:00", at(WINTER, "23:00"), at("2026-01-16", "00:00"))

    def test_almost_always(self) -> None:
        """A window may be open, or closed, for a minute only."""
        self.assert_opens("04:00-04:01", at(WINTER, "04:01"), at("2026-01-16", "04:00"))
        self.assert_shuts("04:01-04:00", at(WINTER, "04:01"), at("2026-01-16", "04:00"))

    def test_elsewhere(self) -> None:
        """The box's time zone counts, even one with half an hour."""
        move_to(self, "IST-5:30")
        self.assert_opens("02:00-04:00", at(WINTER, "01:00", 5.5), at(WINTER, "02:00", 5.5))
        move_to(self, "UTC0")
        self.assert_opens("02:00-04:00", at(WINTER, "01:00", 0), at(WINTER, "02:00", 0))


class ForwardTests(WindowCase):
    """The day on which clocks jump from 02:00 to 03:00."""

    def test_around(self) -> None:
        """A window around the skipped hour is an hour shorter."""
        self.assert_opens("01:00-04:00", at(FORWARD, "00:30"), at(FORWARD, "01:00"))
        self.assert_shuts("01:00-04:00", at(FORWARD, "01:00"), at(FORWARD, "01:00") + 2 * HOUR)

    def test_begins_in_it(self) -> None:
        """A window that starts in the skipped hour opens after it."""
        self.assert_opens("02:30-04:00", at(FORWARD, "01:00"), at(FORWARD, "03:00", 2))
        self.assert_shuts("02:30-04:00", at(FORWARD, "03:00", 2), at(FORWARD, "04:00", 2))

    def test_ends_in_it(self) -> None:
        """A window that ends in the skipped hour closes after it."""
        self.assert_shuts("01:30-02:30", at(FORWARD, "01:45"), at(FORWARD, "03:00", 2))

    def test_all_of_it(self) -> None:
        """A window within the skipped hour does not open that day."""
        for window in ("02:00-03:00", "02:10-02:20"):
            opens = at("2026-03-30", f"{window[:5]}", 2)
            self.assert_opens(window, at(FORWARD, "01:00"), opens)
            self.assert_opens(window, at(FORWARD, "03:30", 2), opens)

    def test_after_it(self) -> None:
        """A later window opens an hour earlier than a day after the last."""
        self.assert_opens("05:00-06:00", at("2026-03-28", "06:00"), at(FORWARD, "05:00", 2))


class BackTests(WindowCase):
    """The day on which clocks jump from 03:00 back to 02:00."""

    def test_around(self) -> None:
        """A window around the repeated hour is an hour longer."""
        self.assert_opens("01:00-04:00", at(BACK, "00:30", 2), at(BACK, "01:00", 2))
        self.assert_shuts("01:00-04:00", at(BACK, "01:00", 2), at(BACK, "01:00", 2) + 4 * HOUR)

    def test_all_of_it(self) -> None:
        """A window of the whole repeated hour is open for two hours."""
        self.assert_shuts("02:00-03:00", at(BACK, "02:00", 2), at(BACK, "03:00", 1))

    def test_part_of_it(self) -> None:
        """A window within the repeated hour opens twice."""
        self.assert_opens("02:10-02:20", at(BACK, "01:00", 2), at(BACK, "02:10", 2))
        self.assert_shuts("02:10-02:20", at(BACK, "02:15", 2), at(BACK, "02:20", 2))
        self.assert_opens("02:10-02:20", at(BACK, "02:20", 2), at(BACK, "02:10", 1))
        self.assert_shuts("02:10-02:20", at(BACK, "02:15", 1), at(BACK, "02:20", 1))
        self.assert_opens("02:10-02:20", at(BACK, "02:20", 1), at("2026-10-26", "02:10", 1))

    def test_begins_in_it(self) -> None:
        """A window that starts in the repeated hour closes, and opens again."""
        self.assert_shuts("02:30-04:00", at(BACK, "02:30", 2), at(BACK, "02:00", 1))
        self.assert_opens("02:30-04:00", at(BACK, "02:00", 1), at(BACK, "02:30", 1))

    def test_ends_in_it(self) -> None:
        """A window that ends in the repeated hour opens again."""
        self.assert_shuts("01:30-02:30", at(BACK, "02:00", 2), at(BACK, "02:30", 2))
        self.assert_opens("01:30-02:30", at(BACK, "02:45", 2), at(BACK, "02:00", 1))
        self.assert_shuts("01:30-02:30", at(BACK, "02:00", 1), at(BACK, "02:30", 1))


class YearTests(WindowCase):
    """A whole year, in both hemispheres."""

    def moments(self) -> Iterator[float]:
        """Return moments of a year, none of them a full minute."""
        moment = at("2026-01-01", "00:00") + 17.3
        while moment < at("2027-01-02", "00:00"):
            yield moment
            moment += 11 * HOUR + 7 * MINUTE

    def test_agree(self) -> None:
        """At any moment, the window opens and closes as predicted, and within two days."""
        for zone in (EUROPE, "NZST-12NZDT,M9.5.0,M4.1.0/3", "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0"):
            move_to(self, zone)
            for window in map(DailyWindow.parse, ("02:15-02:45", "23:00-02:30")):
                for now in self.moments():
                    opens = now + window.until_open(now)
                    self.assertTrue(window.is_open(opens))
                    self.assertTrue(opens == now or not window.is_open(opens - 0.01))
                    shuts = opens + window.until_closed(opens)
                    self.assertFalse(window.is_open(shuts))
                    self.assertTrue(window.is_open(shuts - 0.01))
                    self.assertLess(shuts - now, 2 * DAY)
