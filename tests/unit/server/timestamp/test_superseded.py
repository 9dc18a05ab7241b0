"""Tests of which snapshots and targets the server removes, and when."""

import os

from opq_twisted.trust.repository_reader import KEPT
from tests.helpers.signed_metadata import DAY
from tests.unit.server.timestamp.test_state import NOW, TimestampTestCase

#: The number of versions that are published before the test begins.
_PUBLISHED = KEPT + 4


class SupersededTests(TimestampTestCase):
    """Metadata of many releases, each published a month after the one before."""

    def setUp(self) -> None:
        super().setUp()
        self.signed.init()
        self.signed.root(2)
        for number in range(1, _PUBLISHED + 1):
            self.signed.publish(number)
            self.date(number, NOW + (number - _PUBLISHED) * 30 * DAY)

    def date(self, number: int, when: float) -> None:
        """Set the time at which a version was published."""
        for role in ("snapshot", "targets"):
            os.utime(self.signed.folder / f"{number}.{role}.json", (when, when))

    def numbers(self, role: str) -> list[int]:
        """Return the versions in the folder."""
        files = self.signed.folder.glob(f"*.{role}.json")
        return sorted(int(path.name.split(".")[0]) for path in files)

    def assert_left(self, first: int) -> None:
        """Only snapshots and targets from this version on are left, and all roots."""
        self.assertEqual(self.check().alerts, ())
        for role in ("snapshot", "targets"):
            self.assertEqual(self.numbers(role), list(range(first, _PUBLISHED + 1)))
        self.assertEqual(self.numbers("root"), [1, 2])

    def test_old(self) -> None:
        """The newest versions stay, and the timestamp announces the last of them."""
        self.assert_left(_PUBLISHED + 1 - KEPT)
        self.assertEqual(self.signed.read_timestamp().snapshot_meta.version, _PUBLISHED)

    def test_lately_superseded(self) -> None:
        """Metadata that was the newest a week ago stays, because a valid timestamp may name it."""
        for number in range(4, _PUBLISHED + 1):
            self.date(number, NOW - 6.9 * DAY)
        self.assert_left(3)
        self.now += 0.2 * DAY
        self.assert_left(_PUBLISHED + 1 - KEPT)

    def test_not_announced(self) -> None:
        """Only metadata before the announced one counts as old."""
        self.check()
        left = self.numbers("snapshot")
        for number in range(100, 100 + 2 * KEPT):
            self.signed.write(self.signed.snapshot(number, _PUBLISHED), self.signed.keys["root"])
            os.utime(self.signed.folder / f"{number}.snapshot.json", (1, 1))
        self.check()
        self.assertEqual(self.numbers("snapshot"), [*left, *range(100, 100 + 2 * KEPT)])

    def test_no_key(self) -> None:
        """A server that does not sign the timestamp removes nothing."""
        self.check()
        self.signed.publish(_PUBLISHED + 1)
        self.date(_PUBLISHED + 1, NOW)
        before = self.numbers("snapshot")
        self.check(None)
        self.assertEqual(self.numbers("snapshot"), before)

    def test_not_removed(self) -> None:
        """A file that cannot be removed causes no alert, and other files are removed."""
        path = self.signed.folder / "2.snapshot.json"
        path.unlink()
        path.mkdir()
        os.utime(path, (1, 1))
        self.assertEqual(self.check().alerts, ())
        kept = range(_PUBLISHED + 1 - KEPT, _PUBLISHED + 1)
        self.assertEqual(self.numbers("snapshot"), [2, *kept])
        self.assertEqual(self.numbers("targets"), [*kept])
