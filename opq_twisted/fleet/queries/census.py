"""Counts the boxes of the fleet by their release, by what they wait for, and by their problems."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen
from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, not_, select

from opq_twisted.fleet.queries.silence import Silence, is_silent
from opq_twisted.fleet.store.schema import attempt, box
from opq_twisted.fleet.store.states import COUNTED, BoxState
from opq_twisted.report.codes import Waiting

_DAY = 86400

#: After this number of days without a report, somebody should check a box.
NOT_SEEN_DAYS = 7

#: For each problem, so many of the boxes are listed beside their number.
_NAMED = 5

#: The reasons to wait of a box that does not trust the signed metadata.
_STALE = (Waiting.STALE, Waiting.CLOCK, Waiting.UNTRUSTED)

#: A box can send any word as its reason to wait. Unknown words are counted together.
_WAITING = frozenset(Waiting)
_OTHER = "other"


@frozen
class Need:
    """The boxes that need a person because of one problem."""

    #: The number of these boxes.
    boxes: int
    #: The `box_id` of some of them.
    some: Sequence[int]


@frozen
class Census:
    """The numbers of boxes by their release, by what they wait for, and by their problems."""

    #: The number of boxes by release; None if it is unknown.
    by_release: Mapping[int | None, int]
    #: The number of boxes by what they wait for.
    by_waiting: Mapping[str, int]
    #: The boxes that need a person, by the name of the problem.
    needs: Mapping[str, Need]


def take_census(connection: Connection, now: float, silence: Silence) -> Census:
    """
    Count the boxes.

    :param now: seconds since the epoch.
    :param silence: says which boxes are silent.
    """
    conditions = _conditions(now)
    by_release, by_waiting = Counter[int | None](), Counter[str]()
    counts = Counter[str]()
    # One query is enough for everything that is in the row of a box.
    sums = [func.sum(case((condition, 1), else_=0)) for condition in conditions.values()]
    query = select(box.c.release, box.c.waiting, func.count(), *sums).where(is_counted())
    for row in connection.execute(query.group_by(box.c.release, box.c.waiting)):
        release, waiting, boxes, *found = row
        by_release[release] += boxes
        if waiting is not None:
            by_waiting[waiting if waiting in _WAITING else _OTHER] += boxes
        counts.update(dict(zip(conditions, found, strict=True)))
    for name, condition in (others := _other_conditions(silence)).items():
        counts[name] = _count(connection, condition)
    needs = {
        name: _need(connection, counts[name], condition)
        for name, condition in (conditions | others).items()
    }
    return Census(by_release, by_waiting, needs)


def count_running(connection: Connection, release: int) -> int:
    """Count the boxes that run a release."""
    return _count(connection, box.c.release == release)


def has_need(name: str, now: float, silence: Silence) -> ColumnElement[bool]:
    """
    Return the condition that a box has a problem, and needs a person.

    :param name: the name of the problem, a key of `Census.needs`.
    :param now: seconds since the epoch.
    :param silence: says which boxes are silent.
    :raises KeyError: if there is no such problem.
    """
    return (_conditions(now) | _other_conditions(silence))[name]


def is_counted() -> ColumnElement[bool]:
    """Return the condition for the keys that count as boxes of the fleet."""
    return box.c.state.in_(COUNTED)


def _count(connection: Connection, condition: ColumnElement[bool]) -> int:
    query = select(func.count()).select_from(box).where(is_counted(), condition)
    return connection.execute(query).scalar_one()


def _need(connection: Connection, boxes: int, condition: ColumnElement[bool]) -> Need:
    if not boxes:
        return Need(0, ())
    some = select(box.c.box_id).where(is_counted(), condition).order_by(box.c.id).limit(_NAMED)
    return Need(boxes, connection.execute(some).scalars().all())


def _conditions(now: float) -> dict[str, ColumnElement[bool]]:
    """Return the conditions for which the row of a box is enough."""
    return {
        "blocked": box.c.waiting == Waiting.REFUSED,
        "cloned": box.c.cloned_at.is_not(None),
        "new_key": and_(
            box.c.state == BoxState.KNOWN, box.c.first_seen.between(now - _DAY, now + _DAY)
        ),
        "stale_metadata": box.c.waiting.in_(_STALE),
        # The clock of the server may have been ahead when it last saw a box.
        "not_seen": not_(box.c.last_seen.between(now - NOT_SEEN_DAYS * _DAY, now + _DAY)),
    }


def _other_conditions(silence: Silence) -> dict[str, ColumnElement[bool]]:
    return {
        "silent": box.c.id.in_(_silent(silence)),
        "shared_number": box.c.box_id.in_(_shared_numbers()),
    }


def _silent(silence: Silence) -> Select[Any]:
    return (
        select(attempt.c.box)
        .join(box, box.c.id == attempt.c.box)
        .where(is_silent(silence))
        # The table `box` in this query is not that of the query around it.
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
