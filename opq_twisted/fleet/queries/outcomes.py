"""Counts the results of boxes with a release: each box once, by its worst attempt."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from attrs import frozen
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Subquery,
    and_,
    case,
    exists,
    func,
    or_,
    select,
    true,
    union,
    union_all,
)

from opq_twisted.fleet.queries.silence import Silence, is_silent
from opq_twisted.fleet.store.schema import attempt, box
from opq_twisted.fleet.store.states import TRIED
from opq_twisted.fleet.store.unindexed import unindexed
from opq_twisted.report.codes import RELEASE_AT_FAULT, Outcome, Reason

#: An attempt that is under way, and one whose box has been silent since it began to install.
UNDER_WAY = "under way"
SILENT = "silent"

#: The result of a silent box if the cause may be the release or the network. Only the engine
#: decides that.
UNCLEAR = "unclear"

#: Stands for a reason that this program does not know, as of a newer agent.
_OTHER = "other"

#: All results, the mildest first. A failure of the network or of the box says nothing about the
#: release, so any other result of the same box replaces it.
_RESULTS: list[tuple[str, str]] = [
    *((Outcome.FAILED, str(each)) for each in (_OTHER, *sorted({*Reason} - RELEASE_AT_FAULT))),
    (Outcome.UPDATED, ""),
    (UNDER_WAY, ""),
    (SILENT, ""),
    *((Outcome.FAILED, str(each)) for each in sorted(RELEASE_AT_FAULT)),
    *((Outcome.RETURNED, str(each)) for each in (_OTHER, *sorted(Reason))),
]
_RANKS = {result: rank for rank, result in enumerate(_RESULTS)}
_UPDATED = _RANKS[Outcome.UPDATED, ""]


@frozen(kw_only=True)
class Result:
    """The number of boxes of a channel that had the same result with a release."""

    #: A value of `Outcome`, `UNDER_WAY`, `SILENT` or `UNCLEAR`.
    outcome: str
    #: Empty for other outcomes than `failed` and `returned`.
    reason: str = ""
    boxes: int
    #: When these boxes were last heard, if they are silent; otherwise None.
    last_seen: float | None = None
    #: Whether their keys count for the engine.
    counts: bool = True

    @property
    def is_bad(self) -> bool:
        """Whether it counts against the release."""
        return is_bad(self.outcome, self.reason)


def is_bad(outcome: str, reason: str) -> bool:
    """Whether a result counts against the release."""
    return outcome in (SILENT, Outcome.RETURNED) or (
        outcome == Outcome.FAILED and reason in RELEASE_AT_FAULT
    )


def count_results(
    connection: Connection,
    release: int,
    channel: str,
    silence: Silence,
    counts: ColumnElement[bool] | None = None,
    received_after: float | None = None,
) -> list[Result]:
    """
    Count the boxes of a channel by their worst result with a release, the worst first.

    :param silence: says which boxes are silent.
    :param counts: the condition for the keys that count for the engine; None if all do.
    :param received_after: count only attempts that were first received after this time.
    """
    tried = attempt.c.release == release
    if received_after is not None:
        tried = and_(tried, attempt.c.received > received_after)
    flag = case((true() if counts is None else counts, 1), else_=0)
    in_channel = and_(unindexed(box.c.channel) == channel, box.c.state.in_(TRIED))
    # Nearly all attempts succeed. They can be counted from an index alone.
    updated = _count_updated(connection, tried, flag, in_channel)
    found = []
    for each in connection.execute(_others(tried, silence, flag, in_channel)):
        outcome, reason = _RESULTS[each.rank]
        if each.has_updated and each.rank < _UPDATED:
            continue
        if each.has_updated:
            updated[each.counts] -= each.boxes
        found.append(
            Result(
                outcome=outcome,
                reason=reason,
                boxes=each.boxes,
                last_seen=each.last_seen,
                counts=bool(each.counts),
            )
        )
    found += (
        Result(outcome=Outcome.UPDATED, boxes=boxes, counts=bool(counted))
        for counted, boxes in updated.items()
        if boxes
    )
    return sorted(found, key=lambda each: -_RANKS[each.outcome, each.reason])


def has_failed() -> ColumnElement[bool]:
    """Return the condition that an attempt has ended and was not successful."""
    # PostgreSQL uses the index for "<" and ">", but reads all rows for "!=".
    return or_(attempt.c.outcome < Outcome.UPDATED, attempt.c.outcome > Outcome.UPDATED)


def bad_attempts(tried: Select[Any], silence: Silence) -> Subquery:
    """
    Return the rows of a query whose attempts count against their release, each once.

    :param tried: reads attempts and their boxes.
    :param silence: says which boxes are silent.
    """
    # With one "or" instead of the union, SQLite would read all attempts of the release.
    ended_badly = and_(
        attempt.c.outcome.in_((Outcome.RETURNED, Outcome.FAILED)),
        or_(attempt.c.outcome == Outcome.RETURNED, attempt.c.reason.in_(RELEASE_AT_FAULT)),
    )
    return union(tried.where(ended_badly), tried.where(is_silent(silence))).subquery()


def merge(results: Iterable[Result]) -> list[Result]:
    """Add up the boxes with the same outcome and reason; the order stays."""
    boxes = Counter[tuple[str, str]]()
    for each in results:
        boxes[each.outcome, each.reason] += each.boxes
    return [
        Result(outcome=outcome, reason=reason, boxes=number)
        for (outcome, reason), number in boxes.items()
    ]


def _count_updated(
    connection: Connection,
    tried: ColumnElement[bool],
    flag: ColumnElement[int],
    in_channel: ColumnElement[bool],
) -> Counter[int]:
    """Count the boxes with a successful attempt, by whether they count for the engine."""
    boxes = select(attempt.c.box).where(tried, attempt.c.outcome == Outcome.UPDATED)
    query = select(func.count(), func.coalesce(func.sum(flag), 0)).where(
        in_channel, box.c.id.in_(boxes)
    )
    all_boxes, counted = connection.execute(query).one()
    return Counter({1: int(counted), 0: all_boxes - int(counted)})


def _others(
    tried: ColumnElement[bool],
    silence: Silence,
    flag: ColumnElement[int],
    in_channel: ColumnElement[bool],
) -> Select[Any]:
    """Count the boxes that have other attempts, each by its worst one."""
    attempts = union_all(_ended(tried), _under_way(tried, silence)).subquery()
    worst = (
        select(attempts.c.box, func.max(attempts.c.rank).label("rank"))
        .group_by(attempts.c.box)
        .subquery()
    )
    has_updated = exists().where(
        attempt.c.box == worst.c.box, tried, attempt.c.outcome == Outcome.UPDATED
    )
    columns = (
        worst.c.rank,
        case((worst.c.rank == _RANKS[SILENT, ""], box.c.last_seen)).label("last_seen"),
        case((has_updated, 1), else_=0).label("has_updated"),
        flag.label("counts"),
    )
    each = select(*columns).select_from(worst.join(box, box.c.id == worst.c.box)).where(in_channel)
    rows = each.subquery()
    return select(*rows.c, func.count().label("boxes")).group_by(*rows.c)


def _ended(tried: ColumnElement[bool]) -> Select[Any]:
    rank = case(
        (attempt.c.outcome == Outcome.RETURNED, _ranks_of(Outcome.RETURNED)),
        else_=_ranks_of(Outcome.FAILED),
    )
    return select(attempt.c.box, rank.label("rank")).where(tried, has_failed())


def _ranks_of(outcome: Outcome) -> ColumnElement[int]:
    ranks = {reason: rank for (each, reason), rank in _RANKS.items() if each == outcome}
    return case(ranks, value=attempt.c.reason, else_=_RANKS[outcome, _OTHER])


def _under_way(tried: ColumnElement[bool], silence: Silence) -> Select[Any]:
    rank = case((is_silent(silence), _RANKS[SILENT, ""]), else_=_RANKS[UNDER_WAY, ""])
    return (
        select(attempt.c.box, rank.label("rank"))
        .select_from(attempt.join(box, box.c.id == attempt.c.box))
        .where(tried, attempt.c.outcome.is_(None))
    )
