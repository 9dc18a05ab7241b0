"""Counts the results of boxes with a release: each box once, by its worst attempt."""

from collections.abc import Sequence
from typing import Any

from attrs import frozen
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Subquery,
    and_,
    case,
    func,
    select,
    union_all,
)

from opq_twisted.fleet.queries.silence import Silence, is_silent
from opq_twisted.fleet.store.schema import attempt, box
from opq_twisted.fleet.store.states import TRIED
from opq_twisted.report.codes import RELEASE_AT_FAULT, Outcome, Reason

#: An attempt that is under way, and one whose box has been silent since it began to install.
UNDER_WAY = "under way"
SILENT = "silent"

#: A box that is silent together with others that installed nothing, so that nobody can say why; the
#: engine tells that.
UNCLEAR = "unclear"

#: A reason of a newer agent, which this program does not know.
_OTHER = "other"

#: All results, the mildest first. A failure of the network or of the box says nothing about the
#: release, so it gives way to anything else that the box did with it.
_RESULTS: list[tuple[str, str]] = [
    *((Outcome.FAILED, each) for each in (_OTHER, *sorted({*Reason} - RELEASE_AT_FAULT))),
    (Outcome.UPDATED, ""),
    (UNDER_WAY, ""),
    (SILENT, ""),
    *((Outcome.FAILED, each) for each in sorted(RELEASE_AT_FAULT)),
    *((Outcome.RETURNED, each) for each in (_OTHER, *sorted(Reason))),
]
_RANKS = {result: rank for rank, result in enumerate(_RESULTS)}


@frozen
class Result:
    """How many boxes of a channel had a result with a release."""

    release: int
    channel: str
    #: A value of `Outcome`, `UNDER_WAY` or `SILENT`.
    outcome: str
    #: Empty for other outcomes than `failed` and `returned`.
    reason: str
    boxes: int

    @property
    def is_bad(self) -> bool:
        """Whether it counts against the release."""
        return is_bad(self.outcome, self.reason)


@frozen
class BoxesWithResult:
    """How many boxes had a result with a release."""

    #: As those of `Result`.
    outcome: str
    reason: str
    #: When these boxes were last heard, if they are silent; otherwise None.
    last_seen: float | None
    boxes: int


def is_bad(outcome: str, reason: str) -> bool:
    """Whether a result counts against the release."""
    return outcome in (SILENT, Outcome.RETURNED) or (
        outcome == Outcome.FAILED and reason in RELEASE_AT_FAULT
    )


def count_outcomes(
    connection: Connection, releases: Sequence[int], silence: Silence
) -> list[Result]:
    """
    Count the boxes by release, channel and worst result, the worst first.

    :param silence: since when boxes are silent.
    """
    worst = _worst(releases, silence, None)
    query = (
        select(worst.c.release, box.c.channel, worst.c.rank, func.count())
        .select_from(worst.join(box, box.c.id == worst.c.box))
        .where(box.c.state.in_(TRIED), box.c.channel.is_not(None))
        .group_by(worst.c.release, box.c.channel, worst.c.rank)
        .order_by(worst.c.rank.desc(), worst.c.release, box.c.channel)
    )
    return [_result(*row) for row in connection.execute(query)]


def count_results(
    connection: Connection,
    release: int,
    silence: Silence,
    condition: ColumnElement[bool],
    received_after: float | None = None,
) -> list[BoxesWithResult]:
    """
    Count the boxes that meet a condition by their worst result with a release.

    :param silence: since when boxes are silent.
    :param received_after: count only attempts that were first received after this time.
    """
    worst = _worst([release], silence, received_after)
    last_seen = case((worst.c.rank == _RANKS[SILENT, ""], box.c.last_seen))
    query = (
        select(worst.c.rank, last_seen, func.count())
        .select_from(worst.join(box, box.c.id == worst.c.box))
        .where(condition)
        .group_by(worst.c.rank, last_seen)
    )
    return [
        BoxesWithResult(_RESULTS[rank][0], _RESULTS[rank][1], seen, boxes)
        for rank, seen, boxes in connection.execute(query)
    ]


def _result(release: int, channel: str, rank: int, boxes: int) -> Result:
    outcome, reason = _RESULTS[rank]
    return Result(release, channel, outcome, reason, boxes)


def _worst(releases: Sequence[int], silence: Silence, received_after: float | None) -> Subquery:
    """Return each box that tried a release, with the rank of its worst result."""
    counts: ColumnElement[bool] = attempt.c.release.in_(releases)
    if received_after is not None:
        counts = and_(counts, attempt.c.received > received_after)
    # The two parts are separate because the first one needs nothing but an index.
    attempts = union_all(_ended(counts), _under_way(counts, silence)).subquery()
    return (
        select(attempts.c.release, attempts.c.box, func.max(attempts.c.rank).label("rank"))
        .group_by(attempts.c.release, attempts.c.box)
        .subquery()
    )


def _ended(counts: ColumnElement[bool]) -> Select[Any]:
    outcome = attempt.c.outcome
    rank = case(
        (outcome == Outcome.UPDATED, _RANKS[Outcome.UPDATED, ""]),
        (outcome == Outcome.RETURNED, _ranks_of(Outcome.RETURNED)),
        else_=_ranks_of(Outcome.FAILED),
    )
    return select(attempt.c.release, attempt.c.box, rank.label("rank")).where(
        counts, outcome.is_not(None)
    )


def _ranks_of(outcome: Outcome) -> ColumnElement[int]:
    ranks = {reason: rank for (each, reason), rank in _RANKS.items() if each == outcome}
    return case(ranks, value=attempt.c.reason, else_=_RANKS[outcome, _OTHER])


def _under_way(counts: ColumnElement[bool], silence: Silence) -> Select[Any]:
    rank = case((is_silent(silence), _RANKS[SILENT, ""]), else_=_RANKS[UNDER_WAY, ""])
    return (
        select(attempt.c.release, attempt.c.box, rank.label("rank"))
        .select_from(attempt.join(box, box.c.id == attempt.c.box))
        .where(counts, attempt.c.outcome.is_(None))
    )
