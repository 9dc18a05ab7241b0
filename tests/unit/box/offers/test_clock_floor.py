"""The detection of a clock in the past."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.offers.clock_floor import ClockFloor, kernel_is_synchronised
from opq_twisted.common.errors import ClockBehind
from tests.helpers.box_fakes import NEW, logged

HOUR = 3600


class ClockFloorTests(SynchronousTestCase):
    """A floor on a clock that the test sets."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.now = float(NEW)
        self.synchronised = True
        self.floor = self.another()

    def another(self) -> ClockFloor:
        """Make the floor of the next run of the agent."""
        return ClockFloor(self.path, lambda: self.now, lambda: self.synchronised)

    def test_release_in_the_future(self) -> None:
        """A clock behind the installed release is refused, with a sentence."""
        with self.assertRaises(ClockBehind) as caught:
            self.floor.require_passed(NEW + 1)
        self.assertIn("Waiting for the clock: it shows 2023-11-14 22:15 UTC", str(caught.exception))

    def test_release_in_the_past(self) -> None:
        """A clock that has reached the installed release is accepted."""
        self.floor.require_passed(NEW)

    def test_1970(self) -> None:
        """A recorded time survives the agent, and detects a clock that starts in 1970."""
        self.floor.record()
        self.now, self.synchronised = 60.0, False
        with self.assertRaises(ClockBehind):
            self.another().require_passed(0)

    def test_not_synchronised(self) -> None:
        """The time of an unsynchronised clock is not recorded: it could stop updates for years."""
        self.now, self.synchronised = NEW + 10 * 365 * 24 * HOUR, False
        self.floor.record()
        self.now = NEW
        self.floor.require_passed(0)
        self.assertFalse(self.path.exists())

    def test_once_an_hour(self) -> None:
        """An SD card is not written to at every check."""
        self.floor.record()
        self.now += HOUR - 1
        self.floor.record()
        self.assertEqual(self.path.read_text(), f"{NEW}\n")
        self.now += 1
        self.floor.record()
        self.assertEqual(self.path.read_text(), f"{NEW + HOUR}\n")

    def test_was_ahead(self) -> None:
        """A time that was recorded while the clock was ahead does not count later."""
        for ahead in (HOUR, 7 * 24 * HOUR, 365 * 24 * HOUR):
            with self.subTest(ahead=ahead):
                self.now = float(NEW + ahead)
                self.floor.record()
                self.now = float(NEW)
                self.another().require_passed(NEW)
                # The right time is recorded, even if the kernel has just said the same.
                self.floor.record()
                self.assertEqual(self.path.read_text(), f"{NEW}\n")
                self.synchronised = False
                self.another().require_passed(NEW)
                self.synchronised = True

    def test_behind_and_not_synchronised(self) -> None:
        """An unsynchronised clock behind the recorded time is refused."""
        self.floor.record()
        self.now, self.synchronised = NEW - 1.0, False
        for _ in range(2):
            with self.assertRaises(ClockBehind):
                self.another().require_passed(0)
            # Nor does such a clock lower the recorded time.
            self.floor.record()
        self.assertEqual(self.path.read_text(), f"{NEW}\n")

    def test_synchronised_before_the_release(self) -> None:
        """Even a synchronised clock must not be behind the installed release."""
        self.floor.record()
        self.now = 60.0
        with self.assertRaises(ClockBehind):
            self.another().require_passed(NEW)

    def test_unreadable_record(self) -> None:
        """A record that a power cut has damaged is ignored and replaced."""
        for garbage in (b"", b"\0" * 11, b"never\n", b"-5\n", b"9" * 32):
            self.path.write_bytes(garbage)
            self.floor.require_passed(0)
            self.floor.record()
            self.assertEqual(self.path.read_text(), f"{NEW}\n")

    def test_unwritable_record(self) -> None:
        """If the time cannot be recorded, that is logged, and nothing fails."""
        said = logged(self)
        self.path.mkdir()
        self.floor.record()
        self.floor.require_passed(0)
        self.assertIn("The time cannot be recorded", said[-1])


class KernelTests(SynchronousTestCase):
    """The state of the kernel's clock."""

    def test_says_something(self) -> None:
        """Every user may read the state."""
        self.assertIn(kernel_is_synchronised(), (True, False))
