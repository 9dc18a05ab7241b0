"""Tests of the pace in a timestamp."""

from datetime import UTC, datetime
from typing import Any

from tuf.api.metadata import Metadata, MetaFile, Timestamp
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.trust.pace import FIELD, HELD, UNKNOWN, Pace, read_pace


def timestamp(field: Any = None) -> Timestamp:
    """Make a timestamp that was written and read again."""
    made = Timestamp(
        1,
        expires=datetime(2030, 1, 1, tzinfo=UTC),
        snapshot_meta=MetaFile(1),
        unrecognized_fields={} if field is None else {FIELD: field},
    )
    return Metadata[Timestamp].from_bytes(Metadata(made).to_bytes()).signed


class TestReadPace(SynchronousTestCase):
    """What a box reads."""

    def test_entry(self) -> None:
        """The entry of a channel is read if it is about this release."""
        pace = Pace(5, 500)
        made = timestamp({"stable": pace.to_json(), "beta": Pace(6, 0, HELD).to_json()})
        self.assertEqual(read_pace(made, "stable", 5), pace)
        self.assertEqual(read_pace(made, "beta", 6), Pace(6, 0, HELD))
        self.assertIsNone(read_pace(made, "stable", 6))
        self.assertIsNone(read_pace(made, "other", 5))
        self.assertIsNone(read_pace(timestamp(), "stable", 5))

    def test_not_understood(self) -> None:
        """An entry that cannot be understood lets no box install by itself."""
        good = Pace(5, 500).to_json()
        wrong: list[Any] = [
            None,
            7,
            [],
            {},
            {**good, "version": "5"},
            {**good, "version": True},
            {**good, "bp": -1},
            {**good, "bp": 10_001},
            {**good, "bp": "500"},
            {**good, "bp": None},
            {**good, "state": "galloping"},
            {**good, "state": None},
        ]
        for entry in wrong:
            self.assertEqual(
                read_pace(timestamp({"stable": entry}), "stable", 5), Pace(5, 0, UNKNOWN)
            )
        fields: list[Any] = [[], "x", 7]
        for field in fields:
            self.assertEqual(read_pace(timestamp(field), "stable", 5), Pace(5, 0, UNKNOWN))

    def test_fields_of_later(self) -> None:
        """Fields that are not known are ignored."""
        entry = {**Pace(5, 500).to_json(), "more": 1}
        self.assertEqual(read_pace(timestamp({"stable": entry}), "stable", 5), Pace(5, 500))
