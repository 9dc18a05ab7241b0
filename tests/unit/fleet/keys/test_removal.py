"""Keys that an operator turns away, and boxes that the server forgets."""

from typing import Any

from sqlalchemy import Connection, func, select

from opq_twisted.common.errors import OpqError
from opq_twisted.fleet.audit import AuditNote
from opq_twisted.fleet.keys.removal import (
    BoxAmbiguous,
    BoxUnknown,
    Forgotten,
    distrust,
    forget,
    matching,
)
from opq_twisted.fleet.store.schema import attempt, audit, box
from opq_twisted.fleet.store.states import BoxState
from tests.helpers.fleet_rows import NOW, add_attempt, add_box
from tests.helpers.store_case import StoreCase, on_each_database

A, B = "a" * 32, "a" * 12 + "b" * 20
NOTE = AuditNote(who="anna", because="it was stolen")


class RemovalCase(StoreCase):
    """Two keys of box 7, one of box 8, each with an attempt."""

    def setUp(self) -> None:
        super().setUp()

        def change(connection: Connection) -> None:
            new = add_box(connection, 7, key_id=B)
            old = add_box(connection, 7, key_id=A, state=BoxState.REPLACED, replaced_by=new)
            for number, row in enumerate((new, old, add_box(connection, 8)), 1):
                add_attempt(connection, row, "updated", number=number)

        self.write(change)

    def distrust(self, key: str) -> Any:
        """Distrust a key."""
        return self.write(lambda connection: distrust(connection, key, NOTE, NOW))

    def forget(self, name: str) -> Forgotten:
        """Forget a box."""
        return self.write(lambda connection: forget(connection, name, NOTE, NOW))

    def keys(self) -> dict[str, str]:
        """Return the keys with their states."""
        query = select(box.c.key_id, box.c.state)
        return dict(self.read(lambda connection: connection.execute(query).all()))

    def attempts(self) -> int:
        """Count the attempts."""
        query = select(func.count()).select_from(attempt)
        return self.read(lambda connection: connection.execute(query).scalar_one())

    def deeds(self) -> list[tuple[str, str]]:
        """Return what changed, by the audit."""
        rows = self.read(lambda connection: connection.execute(select(audit)).all())
        return [(each.what, each.change) for each in rows]

    def refused(self, error: type[OpqError], change: Any, name: str) -> None:
        """Something cannot be done, and nothing changes."""
        before = self.keys(), self.attempts(), self.deeds()
        self.assertRaises(error, change, name)
        self.assertEqual((self.keys(), self.attempts(), self.deeds()), before)


@on_each_database
class DistrustTests(RemovalCase):
    """Turns a key away."""

    def test_key(self) -> None:
        """A key is distrusted by its fingerprint, or by enough of it."""
        self.assertEqual(self.distrust(B).box_id, 7)
        self.distrust(f"{8:032x}")
        self.assertEqual(self.keys()[B], BoxState.DISTRUSTED)
        self.assertEqual(self.keys()[A], BoxState.REPLACED)
        self.assertEqual(
            self.deeds()[0], ("distrust", "A key of box 7 is distrusted; it was known.")
        )

    def test_refused(self) -> None:
        """A key must be named, and be the only one of its name; a number names no key."""
        self.refused(BoxUnknown, self.distrust, "c" * 32)
        self.refused(BoxAmbiguous, self.distrust, "a" * 12)
        for name in ("7", "aaaaaaa", "A" * 32, "a" * 33, "", "%" * 8, "a' OR 1=1"):
            self.refused(BoxUnknown, self.distrust, name)


@on_each_database
class ForgetTests(RemovalCase):
    """Deletes a box."""

    def test_number(self) -> None:
        """All keys of a box and their attempts go; the audit keeps only the number."""
        self.assertEqual(self.forget("7"), Forgotten(7, 2, 2))
        self.assertEqual(self.keys(), {f"{8:032x}": BoxState.KNOWN})
        self.assertEqual(self.attempts(), 1)
        self.assertEqual(self.deeds(), [("forget", "Box 7: 2 keys and 2 attempts deleted.")])

    def test_key(self) -> None:
        """By its fingerprint only one key goes, also if it took the place of another one."""
        self.assertEqual(self.forget(B), Forgotten(7, 1, 1))
        self.assertEqual(self.keys(), {A: BoxState.REPLACED, f"{8:032x}": BoxState.KNOWN})
        self.assertEqual(self.deeds(), [("forget", "Box 7: 1 key and 1 attempt deleted.")])

    def test_refused(self) -> None:
        """A box must be there, and be the only one of its name."""
        self.write(lambda connection: add_box(connection, 8, key_id="d" * 32))
        self.write(lambda connection: add_box(connection, 0, key_id="e" * 32))
        for name in ("9", "c" * 32, "", "seven", "-7", "7 ", "*"):
            self.refused(BoxUnknown, self.forget, name)
        for name in ("8", "0", "000", "a" * 12):
            self.refused(BoxAmbiguous, self.forget, name)

    def test_names(self) -> None:
        """Digits are a number; a fingerprint has at least 8 hexadecimal digits."""
        self.assertRaises(BoxUnknown, matching, "12345678901234567890123456789012345")
        self.assertRaises(BoxUnknown, matching, "abcdef")
        self.assertEqual(self.forget("8").keys, 1)
