"""Counts the boxes and attempts of a day, before the attempts are deleted."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, and_, case, func, select
from sqlalchemy.dialects import postgresql, sqlite

from opq_twisted.fleet.queries.silence import SILENT_AFTER, fell_silent
from opq_twisted.fleet.store.schema import attempt, box, day
from opq_twisted.fleet.store.states import COUNTED

#: Seconds.
DAY = 86400

#: At most so many days are counted in one run, if no server ran on them.
_MOST_DAYS = 31

#: The first day (2024-01-01): a machine without a battery begins in 1970.
_FIRST_DAY = 19_723

#: The channel of a row that only says that the day was counted.
_NO_CHANNEL = ""

_COUNTS = ("boxes", "updated", "returned", "failed", "silent")


def missing_days(connection: Connection, now: float) -> range:
    """Return the oldest days (since the epoch, UTC) that are past, and not counted yet."""
    today = int(now // DAY)
    last = _last_day(connection, today)
    first = max(today - 1, _FIRST_DAY) if last is None else last + 1
    return range(first, min(first + _MOST_DAYS, today))


def find_expiry_time(connection: Connection, now: float) -> float:
    """
    Return the time by which the age of rows is judged: now, or soon after the last counted day.

    One run counts at most a month of days. So if the clock is ahead by years, one run deletes the
    rows of a month too many, and not all rows.
    """
    last = _last_day(connection, int(now // DAY))
    return now if last is None else min(now, (last + 2.0) * DAY)


def _last_day(connection: Connection, today: int) -> int | None:
    """Return the last day that was counted; a clock that was ahead may have counted later ones."""
    query = select(func.max(day.c.day)).where(day.c.day >= _FIRST_DAY, day.c.day < today)
    last: int | None = connection.scalar(query)
    return last


def count_day(connection: Connection, number: int) -> Sequence[Mapping[str, Any]]:
    """
    Return the rows of a day.

    A box is counted on the day of its last report, because the database keeps only that time. So
    the numbers are right if the day is counted soon after its end.
    """
    start, end = float(number * DAY), float((number + 1) * DAY)
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for query in (_boxes(start, end), _outcomes(start, end), _silent(start, end)):
        for found in connection.execute(query):
            row = rows.setdefault(
                (found.channel, found.release),
                {"day": number, "channel": found.channel, "release": found.release}
                | dict.fromkeys(_COUNTS, 0),
            )
            row.update({name: found._mapping[name] for name in _COUNTS if name in found._mapping})
    return list(rows.values())


def mark_counted(number: int) -> Mapping[str, Any]:
    """Return a row that marks a day as counted, even if nothing happened on it."""
    return {"day": number, "channel": _NO_CHANNEL, "release": 0} | dict.fromkeys(_COUNTS, 0)


def write_days(connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the rows of days; those that another server has written stay as they are."""
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    if found := [dict(row) for row in rows]:
        connection.execute(insert(day).on_conflict_do_nothing(), found)


def _boxes(start: float, end: float) -> Select[Any]:
    return (
        select(box.c.channel, box.c.release, func.count().label("boxes"))
        .where(
            box.c.state.in_(COUNTED),
            box.c.last_seen >= start,
            box.c.first_seen < end,
            box.c.channel.is_not(None),
            box.c.release.is_not(None),
        )
        .group_by(box.c.channel, box.c.release)
    )


def _outcomes(start: float, end: float) -> Select[Any]:
    counts = [
        func.sum(case((attempt.c.outcome == name, 1), else_=0)).label(name)
        for name in ("updated", "returned", "failed")
    ]
    return _attempts(counts, and_(attempt.c.ended_at >= start, attempt.c.ended_at < end))


def _silent(start: float, end: float) -> Select[Any]:
    # A box counts once: on the day on which it has been silent for long enough.
    period = fell_silent(start - SILENT_AFTER, end - SILENT_AFTER)
    return _attempts([func.count().label("silent")], period)


def _attempts(counts: Sequence[Any], condition: Any) -> Select[Any]:
    return (
        select(box.c.channel, attempt.c.release, *counts)
        .join_from(attempt, box, attempt.c.box == box.c.id)
        .where(condition, box.c.channel.is_not(None), attempt.c.release.is_not(None))
        .group_by(box.c.channel, attempt.c.release)
    )
