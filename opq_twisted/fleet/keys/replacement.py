"""Lets one key of a box take the place of another."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from attrs import frozen
from sqlalchemy import Connection, bindparam, select, update

from opq_twisted.fleet.store.schema import box
from opq_twisted.fleet.store.states import BoxState

#: Seconds of silence after which a new key takes the place of an old one.
SILENCE = 24 * 3600.0

#: Keys that one batch of reports replaces; the next one goes on.
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
    # Another server that has locked the row is storing a report of it: it is not silent.
    .with_for_update(skip_locked=True)
)


@frozen
class Successor:
    """A key that has just reported, and may take the place of another one."""

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

    :param replaced: the row of each key, and the row of the key that takes its place.
    """
    if replaced:
        connection.execute(_REPLACE, [{"row": row, "by": by} for row, by in replaced])


def replace_silent(connection: Connection, successors: Sequence[Successor]) -> None:
    """
    Let keys that have just reported take the places of silent keys with the same number.

    Only a key that was trusted at its first use is replaced: an operator who has admitted a key
    decides about it. It must have been silent for a day, and never heard since the new one
    appeared. Two boxes that both report are left as they are. A key takes the places of keys with
    one number only: otherwise anybody could hide all silent boxes with one key.
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
    """Return the numbers of the keys whose places were taken, by the rows of their successors."""
    query = select(box.c.replaced_by, box.c.box_id).where(
        box.c.replaced_by.in_({each.row for each in successors})
    )
    taken: defaultdict[int, set[int]] = defaultdict(set)
    for row, number in connection.execute(query):
        taken[row].add(number)
    return taken


def _takes_place(successor: Successor, last_seen: float) -> bool:
    return last_seen <= successor.first_seen and last_seen < successor.last_seen - SILENCE
