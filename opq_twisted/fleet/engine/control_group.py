"""Tells a box that an update has silenced from one whose network is down."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import accumulate

from attrs import frozen
from sqlalchemy import ColumnElement, Connection, and_, cast, func, not_, select

from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.rollouts.rollout import Rollout
from opq_twisted.fleet.store.column_types import Number
from opq_twisted.fleet.store.schema import attempt, box
from opq_twisted.fleet.store.states import COUNTED

#: If a larger share of the controls is silent, the cause is the network or the server.
_MOST_SILENT = 0.1

#: If a larger share of the controls is silent, and at least this number of them, the network may
#: also have silenced a box that was installing. The share is small because all boxes of a step
#: install at the same time. An outage silences the same share of them as of the controls, and a
#: release is held if only a few percent of its boxes are bad.
_SOME_SILENT, _SOME = 0.03, 3

#: With fewer controls, their share says nothing.
_LEAST = 5

#: Seconds from a report until the next one is due, for a box that has promised no time.
_PROMISE = 86400.0

#: If fewer boxes are missing, the network does not count as the cause.
_LEAST_MISSING = 3

#: The slack is divided into so many parts; reports that came in the same one are counted together.
_PARTS = 12


@frozen
class Controls:
    """The controls are boxes that installed nothing: how many were heard after a moment."""

    #: Boxes that were heard after the moment.
    heard: int
    #: Boxes that had promised a report after the moment, and did not send it.
    missing: int

    @property
    def share(self) -> float:
        """The share of the boxes that are missing."""
        return self.missing / (self.heard + self.missing) if self.missing else 0.0

    @property
    def can_tell(self) -> bool:
        """Whether there are enough boxes."""
        return self.heard + self.missing >= _LEAST

    @property
    def are_silent(self) -> bool:
        """Whether so many boxes are missing that the network or the server is the cause."""
        return self.share > _MOST_SILENT

    @property
    def explain_silence(self) -> bool:
        """Whether the network may also have silenced a box that fell silent at the same time."""
        return self.are_silent or (self.missing >= _SOME and self.share > _SOME_SILENT)


class ControlGroup:
    """
    The boxes of a channel that are not in the middle of an installation.

    Each report of a box promises a time for the next one. A box fell silent at about a moment if
    its last report came before the moment, its next report was due later, and never came.
    """

    def __init__(
        self,
        last_seen: Iterable[tuple[float, int]],
        missing: Iterable[tuple[float, float]],
        margin: float,
    ) -> None:
        """
        :param last_seen: the times of the last reports, each with the number of its boxes.
        :param missing: for each box that has broken its promise, the time of its last report, and
            the time when the next one was due.
        :param margin: seconds that an installation takes at most.
        """
        counts = sorted(last_seen)
        self._times = [time for time, _ in counts]
        self._until = [0, *accumulate(boxes for _, boxes in counts)]
        broken = list(missing)
        self._seen = sorted(seen for seen, _ in broken)
        self._due = sorted(due for _, due in broken)
        self._margin = margin

    def since(self, moment: float) -> Controls:
        """
        Count the controls that were heard after a moment, and those that were not.

        :param moment: usually the time when a box that was installing was last heard.
        """
        later = moment + self._margin
        heard = self._until[-1] - self._until[bisect_right(self._times, later)]
        missing = bisect_right(self._seen, later) - bisect_left(self._due, moment)
        return Controls(heard, max(0, missing))


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
        return not controls.heard or controls.share > _MOST_SILENT / 2
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
