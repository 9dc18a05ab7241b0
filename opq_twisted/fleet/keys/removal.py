"""Distrusts a key, and forgets a box, with a row in the audit."""

import re
from collections.abc import Sequence
from typing import Any

from attrs import frozen
from sqlalchemy import ColumnElement, Connection, delete, func, select, update

from opq_twisted.common import wording
from opq_twisted.common.errors import OpqError
from opq_twisted.fleet.audit import AuditNote, record
from opq_twisted.fleet.keys.admission import name_of
from opq_twisted.fleet.store.schema import attempt, box
from opq_twisted.fleet.store.states import COUNTED, BoxState

_NUMBER = re.compile(r"[0-9]{1,16}", re.ASCII)
#: The number of keys that an error lists.
_NAMED = 5

_FINGERPRINT = re.compile(r"[0-9a-f]{8,32}", re.ASCII)


class BoxUnknown(OpqError):
    """There is no such box or key."""


class BoxAmbiguous(OpqError):
    """More than one box or key matches a name."""


@frozen
class Forgotten:
    """The numbers of deleted rows."""

    box_id: int
    keys: int
    attempts: int


def matching(name: str) -> ColumnElement[bool]:
    """
    Return the condition for the keys of a box.

    :param name: its number, or the fingerprint of a key, of which the first 8 digits are enough.
    :raises BoxUnknown: if it is neither.
    """
    if _NUMBER.fullmatch(name):
        return box.c.box_id == int(name)
    if _FINGERPRINT.fullmatch(name):
        return box.c.key_id.startswith(name)
    raise BoxUnknown(
        "Give the number of a box, or the fingerprint of its key, at least its first 8 digits."
    )


def distrust(connection: Connection, key: str, note: AuditNote, now: float) -> Any:
    """
    Refuse all reports of a key from now on, and return its row.

    :param key: its fingerprint, or at least the first 8 digits.
    :raises BoxUnknown: if there is none.
    :raises BoxAmbiguous: if there are several.
    """
    if not _FINGERPRINT.fullmatch(key):
        raise BoxUnknown("Give the fingerprint of a key, at least its first 8 digits.")
    row = _one(_lock(connection, box.c.key_id.startswith(key)), f"key {key}")
    connection.execute(
        update(box).where(box.c.id == row.id).values(state=BoxState.DISTRUSTED, replaced_by=None)
    )
    change = f"A key of {name_of(row.box_id)} is distrusted; it was {row.state}."
    record(connection, note, now, what="distrust", change=change, box=row.id)
    return row


def forget(connection: Connection, name: str, note: AuditNote, now: float) -> Forgotten:
    """
    Delete all keys of a box, and its attempts.

    :param name: its `box_id`, or the fingerprint of a key to delete only that key; see `matching`.
    :raises BoxUnknown: if there is no such box.
    :raises BoxAmbiguous: if several boxes have the `box_id`, or several keys match.
    """
    rows = _lock(connection, matching(name))
    if _NUMBER.fullmatch(name):
        if not int(name):
            raise BoxAmbiguous(
                "All boxes without a number have the number 0: name one by its fingerprint."
            )
        in_use = [row for row in rows if row.state in COUNTED]
        _one(in_use or rows[:1], f"box {name}")
    else:
        _one(rows, f"key {name}")
    ids = [row.id for row in rows]
    query = select(func.count()).select_from(attempt).where(attempt.c.box.in_(ids))
    attempts = connection.execute(query).scalar_one()
    connection.execute(delete(box).where(box.c.id.in_(ids)))
    forgotten = Forgotten(rows[0].box_id, len(rows), attempts)
    change = f"{name_of(forgotten.box_id).capitalize()}: {_count(forgotten)} deleted."
    record(connection, note, now, what="forget", change=change, box=rows[0].id)
    return forgotten


def _lock(connection: Connection, condition: ColumnElement[bool]) -> Sequence[Any]:
    query = select(box.c.id, box.c.box_id, box.c.key_id, box.c.state).where(condition)
    return connection.execute(query.order_by(box.c.key_id).with_for_update()).all()


def _one(rows: Sequence[Any], name: str) -> Any:
    if not rows:
        raise BoxUnknown(f"There is no {name}.")
    if len(rows) > 1:
        keys = ", ".join(row.key_id for row in rows[:_NAMED])
        raise BoxAmbiguous(f"{len(rows)} keys match {name}: name one of them, such as {keys}.")
    return rows[0]


def _count(forgotten: Forgotten) -> str:
    keys, attempts = forgotten.keys, forgotten.attempts
    return f"{wording.count(keys, 'key')} and {wording.count(attempts, 'attempt')}"
