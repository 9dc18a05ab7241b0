"""Lets a new key take the place of a silent one with the same number of a box."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from opq_twisted.fleet.store.reported import StoredBox
from opq_twisted.fleet.store.schema import box
from opq_twisted.fleet.store.states import BoxState
from opq_twisted.report.document import Report

#: Seconds of silence after which a new key takes the place of an old one.
SILENCE = 24 * 3600.0

#: Keys that one batch replaces; the next one goes on.
MAX_REPLACED = 1000

_REPLACE = (
    update(box)
    .where(box.c.id == bindparam("row"))
    .values(state=BoxState.REPLACED, replaced_by=bindparam("by"))
)


def replace_silent(connection: Connection, reported: Sequence[tuple[StoredBox, Report]]) -> None:
    """
    Let keys that have just reported take the places of silent keys with the same number.

    The old key was trusted at its first use (who admitted a key decides on it), has been silent for
    a day, and was never heard since the new one appeared. Two boxes that both report are left as
    they are, and so are the boxes without a number.

    :param reported: the boxes as they are stored after their reports.
    """
    successors = [(report.box, stored) for stored, report in reported if report.box]
    silent = _lock_silent(connection, successors)
    replaced = [
        {"row": row.id, "by": stored.row}
        for number, stored in successors
        for row in silent
        if row.box_id == number and _takes_place(stored, row.last_seen)
    ]
    if replaced:
        connection.execute(_REPLACE, replaced)


def _lock_silent(
    connection: Connection, successors: Sequence[tuple[int, StoredBox]]
) -> Sequence[Any]:
    if not successors:
        return ()
    latest = max(stored.last_seen or 0.0 for _, stored in successors)
    query = (
        select(box.c.id, box.c.box_id, box.c.last_seen)
        .where(
            box.c.box_id.in_({number for number, _ in successors}),
            box.c.state == BoxState.KNOWN,
            box.c.last_seen < latest - SILENCE,
        )
        .order_by(box.c.last_seen)
        .limit(MAX_REPLACED)
        # Another server that has locked the row is storing a report of it: it is not silent.
        .with_for_update(skip_locked=True)
    )
    return list(connection.execute(query))


def _takes_place(stored: StoredBox, last_seen: float) -> bool:
    first, now = stored.first_seen or 0.0, stored.last_seen or 0.0
    return last_seen <= first and last_seen < now - SILENCE
