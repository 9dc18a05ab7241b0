"""How people are told of versions, times and sizes."""

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.common import wording
from tests.helpers.time_zones import EUROPE, move_to


class WordingTests(SynchronousTestCase):
    """Numbers for people."""

    def test_version(self) -> None:
        """A version is a time as well, where the reader is."""
        move_to(self, "UTC")
        self.assertEqual(wording.version(1547860803), "1547860803 (2019-01-19 01:20)")
        move_to(self, EUROPE)
        self.assertEqual(wording.version(1547860803), "1547860803 (2019-01-19 02:20)")
        self.assertEqual(wording.version(None), "unknown")

    def test_no_such_time(self) -> None:
        """A number that is no time does no harm."""
        self.assertEqual(wording.moment(None), "never")
        for number in (10**12, 10**15, 1e15):
            self.assertEqual(wording.moment(number), "a time after the year 9999")

    def test_duration(self) -> None:
        """As many units as one wants to read; a clock that was set makes no nonsense."""
        words = {-5: "0 s", 0.4: "0 s", 59: "59 s", 200: "3 min 20 s", 7260: "2 h 1 min"}
        self.assertEqual({each: wording.duration(each) for each in words}, words)

    def test_size(self) -> None:
        """Sizes are in megabytes."""
        self.assertEqual(wording.size(12_345_678), "12.3 MB")

    def test_utc(self) -> None:
        """A time that is compared with those of other machines names its zone."""
        move_to(self, EUROPE)
        self.assertEqual(wording.utc(1547860803.9), "2019-01-19 01:20 UTC")

    def test_mebibytes(self) -> None:
        """Room that is needed is rounded up."""
        self.assertEqual([wording.mebibytes(each) for each in (1, 1 << 20)], ["1 MiB"] * 2)
