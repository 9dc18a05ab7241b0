"""Counts the boxes of the fleet: what they run, wait for, and need."""

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen
from sqlalchemy import Column, ColumnElement, Connection, Select, and_, func, select

from opq_twisted.fleet.store.schema import attempt, box
from opq_twisted.fleet.store.silence import fell_silent
from opq_twisted.fleet.store.states import COUNTED, BoxState
from opq_twisted.report.document import Waiting

_DAY = 86400

#: Days without a report after which somebody should look at a box.
NOT_SEEN_DAYS = 7

#: Boxes that are named beside their number.
_NAMED = 5

#: What a box waits for if it cannot trust the signed metadata that it gets.
_STALE = (Waiting.STALE, Waiting.CLOCK, Waiting.UNTRUSTED)


@frozen
class Need:
    """Boxes that need somebody, all for the same reason."""

    #: How many there are.
    boxes: int
    #: The numbers of some of them, as in their configurations.
    some: Sequence[int]


def by_release(connection: Connection) -> Mapping[int | None, int]:
    """Count the boxes by the release that they run; None if it is unknown."""
    return _by(connection, box.c.release)


def by_waiting(connection: Connection) -> Mapping[str | None, int]:
    """Count the boxes by what they wait for; None if they do not."""
    return _by(connection, box.c.waiting)


def _by(connection: Connection, column: Column[Any]) -> dict[Any, int]:
    query = select(column, func.count()).where(is_counted()).group_by(column)
    return {row[0]: row[1] for row in connection.execute(query)}


def needs(connection: Connection, now: float) -> Mapping[str, Need]:
    """
    Count the boxes that need somebody, by the reason.

    :param now: seconds since the epoch.
    """
    return {name: _need(connection, condition) for name, condition in _needs(now).items()}


def is_counted() -> ColumnElement[bool]:
    """Return the condition for the keys that count as boxes of the fleet."""
    return box.c.state.in_(COUNTED)


def _need(connection: Connection, condition: ColumnElement[bool]) -> Need:
    meets = and_(is_counted(), condition)
    number = connection.execute(select(func.count()).select_from(box).where(meets)).scalar_one()
    if not number:
        return Need(0, ())
    some = select(box.c.box_id).where(meets).order_by(box.c.id).limit(_NAMED)
    return Need(number, connection.execute(some).scalars().all())


def _needs(now: float) -> Mapping[str, ColumnElement[bool]]:
    return {
        "silent": box.c.id.in_(_silent(now)),
        "blocked": box.c.waiting == Waiting.REFUSED,
        "shared_number": box.c.box_id.in_(_shared_numbers()),
        "cloned": box.c.cloned_at.is_not(None),
        "new_key": and_(box.c.state == BoxState.KNOWN, box.c.first_seen > now - _DAY),
        "stale_metadata": box.c.waiting.in_(_STALE),
        "not_seen": box.c.last_seen < now - NOT_SEEN_DAYS * _DAY,
    }


def _silent(now: float) -> Select[Any]:
    return (
        select(attempt.c.box)
        .join(box, box.c.id == attempt.c.box)
        .where(fell_silent(0, now))
        # It has a `box` of its own.
        .correlate(None)
    )


def _shared_numbers() -> Select[Any]:
    return (
        select(box.c.box_id)
        .where(is_counted(), box.c.box_id != 0)
        .group_by(box.c.box_id)
        .having(func.count() > 1)
        .correlate(None)
    )
