"""A database of the fleet into which a test stores reports."""

from typing import Any

from sqlalchemy import Table, select

from opq_twisted.fleet.reports.answer import Answer
from opq_twisted.fleet.reports.apply import apply
from opq_twisted.fleet.reports.enrolment import EnrolmentPolicy
from opq_twisted.fleet.reports.incoming import Incoming
from opq_twisted.fleet.store.schema import attempt, box
from tests.helpers.store_case import StoreCase


class ApplyCase(StoreCase):
    """Applies reports, and looks at the rows."""

    def setUp(self) -> None:
        super().setUp()
        self.policy = EnrolmentPolicy()

    def apply(self, *batch: Incoming) -> list[Answer]:
        """Apply a batch in a transaction of its own."""
        answers = self.write(lambda connection: apply(connection, batch, self.policy))
        self.policy.confirm(max((each.received for each in batch), default=0.0))
        return answers

    def results(self, *batch: Incoming) -> list[tuple[int, str]]:
        """Apply a batch, and return the codes and results."""
        return [(each.code, each.result) for each in self.apply(*batch)]

    def boxes(self) -> list[dict[str, Any]]:
        """Return all rows of boxes, in the order of their numbers."""
        return self._rows(box)

    def attempts(self) -> list[dict[str, Any]]:
        """Return all rows of attempts, in the order of their ids."""
        return self._rows(attempt)

    def everything(self) -> tuple[Any, Any]:
        """Return all boxes and attempts."""
        return self.boxes(), self.attempts()

    def change(self, key: str, **values: Any) -> None:
        """Change the row of a key, as an operator does."""
        statement = box.update().where(box.c.key_id == key).values(values)
        self.write(lambda connection: connection.execute(statement))

    def _rows(self, table: Table) -> list[dict[str, Any]]:
        query = select(table).order_by(*table.primary_key.columns)
        return self.read(
            lambda connection: [dict(row._mapping) for row in connection.execute(query)]
        )
