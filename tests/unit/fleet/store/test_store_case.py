"""Tests of the databases that the other tests get."""

from sqlalchemy import insert, select

from opq_twisted.fleet.store.schema import box
from tests.helpers.store_case import StoreCase, on_each_database


@on_each_database
class TestStoreCase(StoreCase):
    """Each test has a database of its own."""

    def add_box(self) -> None:
        found = self.read(lambda connection: connection.execute(select(box.c.key_id)).all())
        self.assertEqual(found, [])
        row = {"key_id": "0" * 32, "box_id": 1, "state": "known", "seq": 1}
        self.write(lambda connection: connection.execute(insert(box), row))

    def test_first(self) -> None:
        """A test finds its tables empty."""
        self.add_box()

    def test_second(self) -> None:
        """The next one does not find what another test has written."""
        self.add_box()
