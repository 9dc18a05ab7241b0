"""The words for versions, times and sizes."""

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.common import wording
from tests.helpers.time_zones import EUROPE, move_to


class WordingTests(SynchronousTestCase):
    """Numbers as people read them."""

    def test_version(self) -> None:
        """A version is shown with its time, in the zone of the reader."""
        move_to(self, "UTC")
        self.assertEqual(wording.version(1547860803), "1547860803 (2019-01-19 01:20 UTC)")
        move_to(self, EUROPE)
        self.assertEqual(wording.version(1547860803), "1547860803 (2019-01-19 02:20 CET)")
        self.assertEqual(wording.version(None), "unknown")

    def test_no_such_time(self) -> None:
        """A number after the year 9999 has a text of its own."""
        self.assertEqual(wording.moment(None), "never")
        for number in (10**12, 10**15, 1e15):
            self.assertEqual(wording.moment(number), "a time after the year 9999")

    def test_duration(self) -> None:
        """Durations have at most two units; a negative one is 0 s."""
        words = {-5: "0 s", 0.4: "0 s", 59: "59 s", 200: "3 min 20 s", 7260: "2 h 1 min"}
        self.assertEqual({each: wording.duration(each) for each in words}, words)

    def test_size(self) -> None:
        """Sizes are in megabytes, and small ones have two decimals."""
        words = {12_345_678: "12.3 MB", 95_000: "0.1 MB", 94_999: "0.09 MB", 0: "0.00 MB"}
        self.assertEqual({each: wording.size(each) for each in words}, words)

    def test_part_of(self) -> None:
        """A part is shown with the total, unless it is all of it."""
        for count, total, words in (
            (80_000, 12_300_000, "0.08 MB of 12.3 MB"),
            (0, 12_300_000, "0 of 12.3 MB"),
            (12_300_000, 12_300_000, "12.3 MB"),
            (12_380_000, 12_300_000, "12.4 MB"),
            (80_000, None, "0.08 MB"),
        ):
            self.assertEqual(wording.part_of(count, total), words)

    def test_download_progress(self) -> None:
        """A download is described by what travels, and by what is here already."""
        for arguments, words in (
            ((3_210_000, 12_300_000, 1e6), "3.2 MB of 12.3 MB, 1.0 MB a second"),
            ((3_210_000, None, 1e6), "3.2 MB, 1.0 MB a second"),
            ((3_210_000, None, 1e6, 5), "3.2 MB, 1.0 MB a second"),
            ((0, 12_300_000, 0.0, 0), "0.00 MB of 12.3 MB, 0.00 MB a second"),
            (
                (0, 80_000, 0.0, 12_220_000),
                "0.08 MB of 12.3 MB to download, the rest is here already",
            ),
            (
                (50_000, 80_000, 2e5, 12_220_000),
                "0.05 MB of 0.08 MB, 0.2 MB a second; the other 12.2 MB are here already",
            ),
            (
                (80_000, 80_000, 9e4, 12_220_000),
                "0.08 MB downloaded, the other 12.2 MB are here already",
            ),
            ((0, 0, 0.0, 12_300_000), "0.00 MB downloaded, the other 12.3 MB are here already"),
        ):
            with self.subTest(arguments=arguments):
                self.assertEqual(wording.download_progress(*arguments), words)

    def test_utc(self) -> None:
        """A time in UTC includes the zone."""
        move_to(self, EUROPE)
        self.assertEqual(wording.utc(1547860803.9), "2019-01-19 01:20 UTC")
        self.assertEqual(wording.long_utc(1547860803.9), "19 January 2019, 01:20 UTC")
        self.assertEqual(wording.long_utc(10**15), "a time after the year 9999")

    def test_mebibytes(self) -> None:
        """Sizes in MiB are rounded up."""
        self.assertEqual([wording.mebibytes(each) for each in (1, 1 << 20)], ["1 MiB"] * 2)

    def test_count(self) -> None:
        """One thing has another noun than none or many, and thousands have a comma."""
        self.assertEqual(wording.count(0, "key"), "0 keys")
        self.assertEqual(wording.count(1, "key"), "1 key")
        self.assertEqual(wording.count(1000, "bad box", "bad boxes"), "1,000 bad boxes")
        self.assertEqual(wording.boxes(1), "1 box")
        self.assertEqual(wording.boxes(4310), "4,310 boxes")

    def test_percent(self) -> None:
        """A share has as many digits as it needs."""
        shown = [wording.percent(bp) for bp in (0, 1, 25, 100, 550, 2000, 10_000)]
        self.assertEqual(shown, ["0 %", "0.01 %", "0.25 %", "1 %", "5.5 %", "20 %", "100 %"])

    def test_ordinal(self) -> None:
        """The place in a row has the right ending."""
        found = [wording.ordinal(number) for number in (1, 2, 3, 4, 11, 12, 13, 21, 112, 1003)]
        self.assertEqual(" ".join(found), "1st 2nd 3rd 4th 11th 12th 13th 21st 112th 1,003rd")
