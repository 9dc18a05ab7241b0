"""Reads the control group of a rollout from the database."""

from sqlalchemy import ColumnElement, Connection, and_, cast, func, not_, select

from opq_twisted.fleet.engine.control_group import MOST_SILENT, ControlGroup, Controls
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.rollouts.rollout import Rollout
from opq_twisted.fleet.store.column_types import Number
from opq_twisted.fleet.store.schema import attempt, box
from opq_twisted.fleet.store.states import COUNTED

#: Seconds from a report until the next one is due, for a box that has promised no time.
_PROMISE = 86400.0

#: If fewer boxes are missing, the network does not count as the cause.
_LEAST_MISSING = 3

#: Reports that came within this part of the slack are counted together.
_PARTS = 12


def read_control_group(
    connection: Connection,
    each: Rollout,
    counts: ColumnElement[bool],
    since: float,
    broken_before: float,
    timing: Timing,
) -> ControlGroup:
    """
    Read the boxes that have no open attempt to install the release.

    :param counts: the condition for the keys that count.
    :param since: the earliest moment for which `ControlGroup.since` will be called.
    :param broken_before: if a report was due before this time and has not come, its box is missing.
    """
    open_attempts = select(attempt.c.box).where(
        attempt.c.release == each.release, attempt.c.outcome.is_(None)
    )
    is_control = and_(counts, box.c.state.in_(COUNTED), not_(box.c.id.in_(open_attempts)))
    return ControlGroup(
        _read_heard(connection, is_control, since, timing.slack / _PARTS),
        _read_missing(connection, is_control, since, broken_before),
        timing.slack,
    )


def is_fleet_silent(controls: Controls, was_silent: bool) -> bool:
    """
    Whether so many boxes are silent that the network is the cause.

    The result becomes False again when at least one box is heard, and fewer boxes are silent than
    were necessary for True.
    """
    if was_silent:
        return not controls.heard or controls.share > MOST_SILENT / 2
    return controls.are_silent and controls.missing >= _LEAST_MISSING


def _read_heard(
    connection: Connection, is_control: ColumnElement[bool], since: float, part: float
) -> list[tuple[float, int]]:
    query = (
        select(func.min(box.c.last_seen), func.count())
        .where(is_control, box.c.last_seen > since)
        .group_by(cast(box.c.last_seen / part, Number))
    )
    return [(last_seen, boxes) for last_seen, boxes in connection.execute(query)]


def _read_missing(
    connection: Connection, is_control: ColumnElement[bool], since: float, before: float
) -> list[tuple[float, float]]:
    due = func.coalesce(box.c.due, box.c.last_seen + _PROMISE)
    query = select(box.c.last_seen, due).where(
        is_control, box.c.last_seen < before, due >= since, due < before
    )
    return [(last_seen, promised) for last_seen, promised in connection.execute(query)]
