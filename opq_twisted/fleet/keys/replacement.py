"""Replaces a key of a box by another one."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from attrs import frozen
from sqlalchemy import Connection, bindparam, select, update

from opq_twisted.fleet.store.schema import box
from opq_twisted.fleet.store.states import BoxState

#: A key can be replaced after so many seconds without a report.
SILENCE = 24 * 3600.0

#: The limit of keys that one batch of reports replaces; the next batch replaces the others.
MAX_REPLACED = 1000

_REPLACE = (
    update(box)
    .where(box.c.id == bindparam("row"))
    .values(state=BoxState.REPLACED, replaced_by=bindparam("by"))
)

_LOCK_SILENT = (
    select(box.c.id, box.c.box_id, box.c.last_seen)
    .where(
        box.c.box_id.in_(bindparam("numbers", expanding=True)),
        box.c.state == BoxState.KNOWN,
        box.c.last_seen < bindparam("since"),
    )
    .order_by(box.c.last_seen)
    .limit(MAX_REPLACED)
    # If another server has locked the row, it is storing a report: the key is not silent.
    .with_for_update(skip_locked=True)
)


@frozen
class Successor:
    """A key that has just reported, and may replace another one."""

    #: The number of its row.
    row: int
    #: The number of its box, not 0.
    box_id: int
    #: Seconds since the epoch.
    first_seen: float
    last_seen: float


def replace(connection: Connection, replaced: Collection[tuple[int, int]]) -> None:
    """
    Mark keys as replaced.

    :param replaced: for each key its row, and the row of the key that replaces it.
    """
    if replaced:
        connection.execute(_REPLACE, [{"row": row, "by": by} for row, by in replaced])


def replace_silent(connection: Connection, successors: Sequence[Successor]) -> None:
    """
    Let keys that have just reported replace silent keys with the same `box_id`.

    - The old key must not have been admitted: only an operator can replace such a key.
    - It must have been silent for a day, and for all the time that the new key is known. So two
      boxes that both report are left as they are.
    - A new key replaces only keys with one `box_id`. Otherwise anybody could hide all silent boxes
      with a single key.
    """
    silent = _lock_silent(connection, successors)
    if not silent:
        return
    taken = _numbers_taken(connection, successors)
    replaced = [
        (row.id, each.row)
        for each in successors
        for row in silent
        if row.box_id == each.box_id
        and _takes_place(each, row.last_seen)
        and taken[each.row] <= {each.box_id}
    ]
    replace(connection, replaced)


def _lock_silent(connection: Connection, successors: Sequence[Successor]) -> Sequence[Any]:
    if not successors:
        return ()
    latest = max(each.last_seen for each in successors)
    numbers = list({each.box_id for each in successors})
    return list(connection.execute(_LOCK_SILENT, {"numbers": numbers, "since": latest - SILENCE}))


def _numbers_taken(
    connection: Connection, successors: Sequence[Successor]
) -> Mapping[int, set[int]]:
    """Return the `box_id` of each replaced key, by the row of its successor."""
    query = select(box.c.replaced_by, box.c.box_id).where(
        box.c.replaced_by.in_({each.row for each in successors})
    )
    taken: defaultdict[int, set[int]] = defaultdict(set)
    for row, number in connection.execute(query):
        taken[row].add(number)
    return taken


def _takes_place(successor: Successor, last_seen: float) -> bool:
    return last_seen <= successor.first_seen and last_seen < successor.last_seen - SILENCE
