"""Tests of the room that reports leave on the disk."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Connection, insert, select
from twisted.internet.defer import Deferred, maybeDeferred

from opq_twisted.fleet.store.errors import StoreUnavailable
from opq_twisted.fleet.store.schema import box
from tests.helpers.store_case import StoreCase, on_each_database

_MB = 1 << 20


def add(connection: Connection) -> None:
    """Add a row."""
    connection.execute(insert(box), [{"key_id": "0" * 32, "box_id": 1, "state": "known", "seq": 0}])


def read(connection: Connection) -> list[int]:
    """Return all rows."""
    return list(connection.scalars(select(box.c.box_id)))


@on_each_database
class TestRoom(StoreCase):
    """Reports are not stored on a disk that is nearly full, but orders are."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(self.database, "write", self.in_this_thread)

    def in_this_thread(self, change: Any) -> Deferred[Any]:
        return maybeDeferred(self.database.write_now, change)

    def set_disk(self, megabytes: int, free: int) -> None:
        """Let all disks have this size, and so many free megabytes for ordinary users."""
        found = {"f_frsize": _MB, "f_blocks": megabytes, "f_bavail": free, "f_bfree": megabytes}
        self.patch(os, "statvfs", lambda _: SimpleNamespace(**found))

    def store(self) -> bool:
        """Store a report; returns whether that was possible."""
        stored = self.database.write_with_room(add)
        if self.on_postgresql:
            self.successResultOf(stored)
            return True
        result: list[Any] = []
        stored.addBoth(result.append)
        if result == [None]:
            return True
        self.assertIsInstance(result[0].value, StoreUnavailable)
        self.assertIn("Make room there.", str(result[0].value))
        return False

    def test_large_disk(self) -> None:
        """Of a large disk 256 MB stay free; PostgreSQL may be anywhere."""
        self.set_disk(100_000, 255)
        self.assertEqual(self.store(), self.on_postgresql)
        self.assertEqual(self.read(read), [1] * self.on_postgresql)

    def test_order(self) -> None:
        """An operator needs little room, and may use the last of it."""
        self.set_disk(100_000, 1)
        self.write(add)
        self.assertEqual(self.read(read), [1])

    def test_small_disk(self) -> None:
        """Of a small disk a twentieth stays free."""
        self.set_disk(1000, 50)
        self.assertTrue(self.store())

    def test_unused_pages(self) -> None:
        """The room in the file itself counts, for example after old rows were deleted."""
        if self.on_postgresql:
            return

        def fill(connection: Connection) -> None:
            connection.exec_driver_sql("CREATE TABLE filler (data BLOB)")
            connection.exec_driver_sql("INSERT INTO filler VALUES (zeroblob(3000000))")

        self.write(fill)
        self.write(lambda connection: connection.exec_driver_sql("DROP TABLE filler"))
        self.set_disk(1000, 47)
        self.assertFalse(self.store())
        self.set_disk(1000, 48)
        self.assertTrue(self.store())

    def test_no_folder(self) -> None:
        """A folder that is gone is told in a sentence."""
        if not self.on_postgresql:
            Path(self.url.removeprefix("sqlite:///")).unlink()
            failure = self.failureResultOf(self.database.write_with_room(add), StoreUnavailable)
            self.assertIn("is missing", str(failure.value))
