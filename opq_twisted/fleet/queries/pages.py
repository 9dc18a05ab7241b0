"""Reads boxes, attempts, rollouts and the audit in pages, for people and programs."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen
from sqlalchemy import ColumnElement, Connection, Select, func, literal, select, tuple_

from opq_twisted.fleet.queries.census import is_counted
from opq_twisted.fleet.queries.outcomes import SILENT, bad_attempts
from opq_twisted.fleet.queries.silence import Silence
from opq_twisted.fleet.store.schema import attempt, audit, box, rollout
from opq_twisted.fleet.store.states import TRIED

#: Rows of a page.
PAGE = 500

#: At most so many keys of one box are shown, and so many of its attempts.
_KEYS = 50
_ATTEMPTS = 100

#: A value of `BoxFilter.state`: keys in any state.
ANY = "any"

#: The columns that are shown of a key. Its bytes, and columns that only help to check the next
#: report, are left out.
_BOX = (
    *("key_id", "box_id", "state", "channel", "release", "agent", "arch", "python", "install"),
    *("waiting", "root", "snapshot", "last_good", "refused", "seq", "first_seen", "last_seen"),
    *("due", "cloned_at", "label"),
)

#: The columns that are shown of an attempt.
_ATTEMPT = (
    *("attempt_id", "release", "from_release", "began", "took", "automatic", "stage", "outcome"),
    *("reason", "inferred", "tries", "fetched", "size", "received", "ended_at"),
)

#: A row by the names of its columns.
Row = Mapping[str, Any]


@frozen(kw_only=True)
class BoxFilter:
    """The boxes to list; None in a field means any."""

    channel: str | None = None
    release: int | None = None
    #: None for the states that count, or `ANY`.
    state: str | None = None
    waiting: str | None = None
    #: Seconds since the epoch.
    not_seen_since: float | None = None
    #: The boxes with a problem: see `census.has_need`.
    need: ColumnElement[bool] | None = None


def list_boxes(
    connection: Connection, after: int | None, limit: int = PAGE, *, wanted: BoxFilter
) -> list[Row]:
    """
    List keys of boxes by their row number.

    :param after: the `id` of the last row of the page before; None for the first page.
    """
    query = select(box.c.id, *(box.c[name] for name in _BOX))
    query = query.where(box.c.id > (after or 0), *_conditions(wanted)).order_by(box.c.id)
    return _boxes(connection, query.limit(limit))


def list_keys(connection: Connection, condition: ColumnElement[bool]) -> list[Row]:
    """List the keys that meet a condition, the one that was seen last first."""
    successor = box.alias()
    query = (
        select(box.c.id, *(box.c[name] for name in _BOX), successor.c.key_id.label("replaced_by"))
        .outerjoin(successor, successor.c.id == box.c.replaced_by)
        .where(condition)
        .order_by(box.c.last_seen.desc().nulls_last(), box.c.id)
    )
    return _boxes(connection, query.limit(_KEYS))


def list_last_attempts(connection: Connection, keys: Sequence[int]) -> list[Row]:
    """List the last attempts of some keys (row numbers of `box`), the newest first."""
    query = (
        _attempts()
        .where(attempt.c.box.in_(keys))
        .order_by(attempt.c.received.desc(), attempt.c.attempt_id)
    )
    return _rows(connection, query.limit(_ATTEMPTS))


def list_bad_boxes(
    connection: Connection, release: int, silence: Silence, limit: int = 20
) -> list[Row]:
    """
    List the boxes on which a release failed, with the reason.

    :param silence: says which boxes are silent; they have the outcome `silent`.
    """
    outcome = func.coalesce(attempt.c.outcome, SILENT).label("outcome")
    shown = box.c.box_id, box.c.key_id, outcome, attempt.c.reason, attempt.c.ended_at
    tried = (
        select(attempt.c.box, *shown)
        .join(box, box.c.id == attempt.c.box)
        .where(attempt.c.release == release, box.c.state.in_(TRIED))
    )
    bad = bad_attempts(tried, silence)
    query = select(*(bad.c[each.key] for each in shown)).order_by(
        bad.c.outcome.desc(), bad.c.reason, bad.c.box
    )
    return _rows(connection, query.limit(limit))


def list_attempts(connection: Connection, after: tuple[int, str], limit: int = PAGE) -> list[Row]:
    """
    List attempts by the row numbers of their boxes, and their ids.

    :param after: the `box` and the `attempt_id` of the last row of the page before.
    """
    key = attempt.c.box, attempt.c.attempt_id
    last = (literal(value, column.type) for value, column in zip(after, key, strict=True))
    query = _attempts().where(tuple_(*key) > tuple_(*last)).order_by(*key)
    return _rows(connection, query.limit(limit))


def list_rollouts(connection: Connection, before: int | None, limit: int = PAGE) -> list[Row]:
    """
    List rollouts, the last announced first.

    :param before: the `id` of the last row of the page before; None for the first page.
    """
    query = select(rollout).order_by(rollout.c.id.desc()).limit(limit)
    return _rows(connection, query if before is None else query.where(rollout.c.id < before))


def list_changes(
    connection: Connection, before: int | None, limit: int = PAGE, release: int | None = None
) -> list[Row]:
    """
    List the changes that people made, the last one first.

    :param before: the `id` of the last row of the page before; None for the first page.
    :param release: None for the changes of all releases, and of boxes.
    """
    query = (
        select(audit, box.c.key_id, box.c.box_id)
        .outerjoin(box, box.c.id == audit.c.box)
        .order_by(audit.c.id.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(audit.c.id < before)
    return _rows(connection, query if release is None else query.where(audit.c.release == release))


def _attempts() -> Select[Any]:
    return select(attempt.c.box, *(attempt.c[name] for name in _ATTEMPT))


def _conditions(wanted: BoxFilter) -> list[ColumnElement[bool]]:
    given = [
        box.c[name] == value
        for name in ("channel", "release", "waiting")
        if (value := getattr(wanted, name)) is not None
    ]
    if wanted.state is None:
        given.append(is_counted())
    elif wanted.state != ANY:
        given.append(box.c.state == wanted.state)
    if wanted.not_seen_since is not None:
        given.append(box.c.last_seen < wanted.not_seen_since)
    if wanted.need is not None:
        given.append(wanted.need)
    return given


def _boxes(connection: Connection, query: Select[Any]) -> list[Row]:
    """Return rows of `box`, with the blocked releases as a list; None before the first report."""
    found = _rows(connection, query)
    return [{**row, "refused": json.loads(row["refused"] or "null")} for row in found]


def _rows(connection: Connection, query: Select[Any]) -> list[Row]:
    return [dict(row) for row in connection.execute(query).mappings()]
