"""Reads the counts of the last days, for charts."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, case, func, select

from opq_twisted.fleet.store.schema import day

#: The number of days that are shown. The present day is not one of them.
DAYS = 30

#: So many releases have a series of their own; the others are added up.
_RELEASES = 6

_DAY = 86400
_OUTCOMES = ("updated", "returned", "failed", "silent")

#: A number for each day; None if the day was not counted.
_Series = list[int | None]


def read_history(connection: Connection, now: float, current: Collection[int]) -> Mapping[str, Any]:
    """
    Return for each of the last days the boxes by their release, and the attempts by their result.

    :param now: seconds since the epoch.
    :param current: releases that have a series of their own, besides the most common ones.
    """
    days = range(int(now // _DAY) - DAYS, int(now // _DAY))
    shown = _most_common(connection, days, current)
    # Each counted day has a row without a channel.
    counted = select(day.c.day).where(_within(days)).distinct()
    zeros = dict.fromkeys(connection.scalars(counted), 0)

    def empty() -> _Series:
        return [zeros.get(each) for each in days]

    boxes: dict[int | None, _Series] = {each: empty() for each in (*shown, None)}
    outcomes = {name: empty() for name in _OUTCOMES}
    release = case((day.c.release.in_(shown), day.c.release)).label("shown")
    sums = [func.sum(day.c[name]).label(name) for name in ("boxes", *_OUTCOMES)]
    query = select(day.c.day, release, *sums).where(_within(days), day.c.channel != "")
    for row in connection.execute(query.group_by(day.c.day, "shown")):
        place = row.day - days.start
        boxes[row.shown][place] = row.boxes
        for name, series in outcomes.items():
            series[place] = (series[place] or 0) + row._mapping[name]
    return {
        "days": [f"{datetime.fromtimestamp(each * _DAY, UTC):%Y-%m-%d}" for each in days],
        "releases": [{"release": each, "boxes": boxes[each]} for each in shown],
        "others": boxes[None],
        "outcomes": outcomes,
    }


def _most_common(connection: Connection, days: range, current: Collection[int]) -> Sequence[int]:
    """Return the releases to show, the newest first."""
    query = (
        select(day.c.release)
        .where(_within(days), day.c.channel != "", day.c.boxes > 0)
        .group_by(day.c.release)
        .order_by(
            day.c.release.in_(current).desc(), func.sum(day.c.boxes).desc(), day.c.release.desc()
        )
        .limit(_RELEASES)
    )
    return sorted(connection.scalars(query), reverse=True)


def _within(days: range) -> Any:
    return day.c.day.between(days.start, days.stop - 1)
