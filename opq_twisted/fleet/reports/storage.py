"""Reads and writes the rows of a batch of reports, with one statement for many boxes."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from attrs import evolve, fields_dict
from sqlalchemy import Connection, Insert, Row, bindparam, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from opq_twisted.fleet.reports.rows import Changes, StoredAttempt, StoredBox
from opq_twisted.fleet.store.schema import attempt, box
from opq_twisted.report.document import Report

_BOX_FIELDS = tuple(name for name in fields_dict(StoredBox) if name != "row")
_ATTEMPT_FIELDS = tuple(fields_dict(StoredAttempt))

#: The fields of a report that are columns of the same name.
_REPORT_FIELDS = (
    "channel",
    "release",
    "agent",
    "arch",
    "python",
    "install",
    "waiting",
    "root",
    "snapshot",
    "last_good",
)

_UPDATE_BOX = (
    update(box)
    .where(box.c.id == bindparam("row"))
    .values(
        {
            name: bindparam(name)
            for name in (*_BOX_FIELDS, *_REPORT_FIELDS, "box_id", "refused")
            if name != "key_id"
        }
    )
)

_UPDATE_ATTEMPT = (
    update(attempt)
    .where(attempt.c.box == bindparam("row"), attempt.c.attempt_id == bindparam("row_attempt"))
    .values(
        {name: bindparam(name) for name in _ATTEMPT_FIELDS if name not in ("box", "attempt_id")}
    )
)

# The statements are made once: for one box, making one takes longer than running it.
_LOCK_BOXES = (
    select(box.c.id.label("row"), *(box.c[name] for name in _BOX_FIELDS))
    .where(box.c.key_id.in_(bindparam("keys", expanding=True)))
    .order_by(box.c.key_id)
    .with_for_update()
)

_LOAD_ATTEMPTS = select(*(attempt.c[name] for name in _ATTEMPT_FIELDS)).where(
    attempt.c.box.in_(bindparam("boxes", expanding=True)),
    or_(
        attempt.c.outcome.is_(None),
        attempt.c.attempt_id.in_(bindparam("names", expanding=True)),
    ),
)

_COUNT_ATTEMPTS = (
    select(attempt.c.box, func.count())
    .where(
        attempt.c.box.in_(bindparam("boxes", expanding=True)),
        attempt.c.received > bindparam("since"),
    )
    .group_by(attempt.c.box)
)

_ADD_ATTEMPTS = insert(attempt)


def lock_boxes(connection: Connection, keys: Collection[str]) -> dict[str, StoredBox]:
    """
    Return the rows of keys, by key, and lock them until the end of the transaction.

    All servers lock them in the order of the keys, so that there is no deadlock.
    """
    if not keys:
        return {}
    rows = connection.execute(_LOCK_BOXES, {"keys": sorted(keys)})
    return {row.key_id: _read_box(row) for row in rows}


def add_boxes(connection: Connection, new: Mapping[str, StoredBox]) -> dict[str, StoredBox]:
    """
    Make the rows of new keys, and return them by key.

    If another server or an operator has just added a key, its row is returned.
    """
    if not new:
        return {}
    rows = [_new_row(new[key]) for key in sorted(new)]
    statement = _insert_or_ignore(connection).returning(box.c.id, box.c.key_id)
    made = connection.execute(statement, rows)
    added = {row.key_id: evolve(new[row.key_id], row=row.id) for row in made}
    there = lock_boxes(connection, new.keys() - added.keys())
    return added | {key: evolve(row, pubkey=new[key].pubkey) for key, row in there.items()}


def load_attempts(
    connection: Connection, boxes: Collection[int], names: Collection[str]
) -> list[StoredAttempt]:
    """Return the attempts of these boxes that have no outcome, or whose id is in `names`."""
    if not boxes:
        return []
    rows = connection.execute(_LOAD_ATTEMPTS, {"boxes": list(boxes), "names": list(names)})
    return [StoredAttempt(**dict(zip(_ATTEMPT_FIELDS, row, strict=True))) for row in rows]


def count_attempts(connection: Connection, boxes: Collection[int], since: float) -> Counter[int]:
    """Count the attempts that were first received after `since`, by the row of the box."""
    if not boxes:
        return Counter()
    rows = connection.execute(_COUNT_ATTEMPTS, {"boxes": list(boxes), "since": since})
    return Counter({row[0]: row[1] for row in rows})


def save(connection: Connection, changes: Changes) -> None:
    """Write the changes of a batch."""
    _execute(connection, _UPDATE_BOX, (_box_values(*each) for each in changes.boxes))
    _execute(
        connection,
        _ADD_ATTEMPTS,
        (_values(each, _ATTEMPT_FIELDS) for each in changes.new_attempts),
    )
    _execute(
        connection,
        _UPDATE_ATTEMPT,
        (
            _values(each, _ATTEMPT_FIELDS) | {"row": each.box, "row_attempt": each.attempt_id}
            for each in changes.old_attempts
        ),
    )


def _execute(connection: Connection, statement: Any, rows: Iterable[dict[str, Any]]) -> None:
    if parameters := list(rows):
        connection.execute(statement, parameters)


def _insert_or_ignore(connection: Connection) -> Insert:
    if connection.dialect.name == "sqlite":
        return sqlite.insert(box).on_conflict_do_nothing(index_elements=["key_id"])
    return postgresql.insert(box).on_conflict_do_nothing(index_elements=["key_id"])


def _read_box(row: Row[Any]) -> StoredBox:
    return StoredBox(**{**row._mapping, "boots": tuple(json.loads(row.boots or "[]"))})


def _new_row(new: StoredBox) -> dict[str, Any]:
    names = ("key_id", "pubkey", "state", "seq", "first_seen")
    return _values(new, names) | {"box_id": 0}


def _box_values(stored: StoredBox, report: Report) -> dict[str, Any]:
    return (
        _values(stored, _BOX_FIELDS)
        | _values(report, _REPORT_FIELDS)
        | {
            "row": stored.row,
            "box_id": report.box,
            "boots": json.dumps(stored.boots),
            "refused": json.dumps(report.refused),
        }
    )


def _values(value: object, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names}
