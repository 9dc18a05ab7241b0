"""Counts the boxes of a rollout by their results, their turn, and the time when they began."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from attrs import frozen
from sqlalchemy import ColumnElement, Connection, and_, case, func, or_, select

from opq_twisted.fleet.queries.outcomes import SILENT, UNDER_WAY, Result, count_results, has_failed
from opq_twisted.fleet.queries.silence import Silence
from opq_twisted.fleet.rollouts.rollout import Rollout
from opq_twisted.fleet.store.schema import attempt, box
from opq_twisted.fleet.store.states import COUNTED, TRIED, BoxState
from opq_twisted.fleet.store.unindexed import unindexed
from opq_twisted.report.codes import Outcome, Waiting


@frozen(kw_only=True)
class Counts:
    """The boxes whose results matter for a rollout, each once, by its worst attempt."""

    well: int
    bad_by_reason: Mapping[str, int]
    under_way: int
    #: Boxes of `under_way` that are silent for an unknown reason.
    unclear: int

    @property
    def bad(self) -> int:
        """The number of bad boxes."""
        return sum(self.bad_by_reason.values())


def counts_in(each: Rollout, now: float, key_age: float) -> ColumnElement[bool]:
    """
    Return the condition that a key counts in a rollout, if its state lets it count at all.

    As soon as a release is announced, anybody can make keys and send false reports. So a key counts
    only if it is older than that, or if an operator has admitted it.

    :param key_age: a key must have been known for this number of seconds before the announcement.
    """
    # A clock that was ahead may have announced a release in the future.
    announced_at = min(each.announced_at, now)
    return and_(
        unindexed(box.c.channel) == each.channel,
        or_(box.c.state == BoxState.ADMITTED, box.c.first_seen <= announced_at - key_age),
    )


def read_results(
    connection: Connection,
    each: Rollout,
    counts: ColumnElement[bool],
    silent_before: float,
    *,
    received_after: float | None = None,
) -> Sequence[Result]:
    """
    Count all boxes of a rollout by their results, also those that do not count.

    :param counts: see `counts_in`.
    :param silent_before: a box that was last heard before this time is silent.
    :param received_after: older attempts are left out.
    """
    silence = Silence(silent_before)
    return count_results(connection, each.release, each.channel, silence, counts, received_after)


def sum_up(results: Iterable[Result], is_clear: Callable[[float], bool]) -> Counts:
    """
    Add up the results of the boxes that count.

    :param is_clear: called with the time when a silent box was last heard; returns whether the
        release has silenced it.
    """
    well = under_way = unclear = 0
    bad = Counter[str]()
    for each in results:
        if not each.counts:
            continue
        if each.last_seen is not None and not is_clear(each.last_seen):
            unclear += each.boxes
        elif each.is_bad:
            bad[_word(each)] += each.boxes
        elif each.outcome == Outcome.UPDATED:
            well += each.boxes
        elif each.outcome == UNDER_WAY:
            under_way += each.boxes
    return Counts(
        well=well, bad_by_reason=dict(bad), under_way=under_way + unclear, unclear=unclear
    )


def count_drawn(
    connection: Connection, each: Rollout, counts: ColumnElement[bool]
) -> tuple[int, int]:
    """
    Return two numbers: the boxes whose turn has come, and those of them that have ended an attempt.

    A box counts if it was seen in this step, and has an attempt to install the release or would
    begin one by itself: it installs automatically, and neither waits for its turn nor for the end
    of a hold. Boxes with a newer release are left out.

    :param counts: the condition for the keys that count.
    """
    # A box whose attempt was successful runs the release: its attempts need not be read.
    tried = select(attempt.c.box).where(attempt.c.release == each.release)
    failed = box.c.id.in_(tried.where(has_failed()))
    under_way = box.c.id.in_(tried.where(attempt.c.outcome.is_(None)))
    runs = box.c.release == each.release
    would_try = and_(
        box.c.install == "automatic",
        or_(box.c.waiting.is_(None), box.c.waiting.not_in((Waiting.TURN, Waiting.HELD))),
    )
    query = select(func.count(), func.sum(case((or_(runs, failed), 1), else_=0))).where(
        counts,
        box.c.state.in_(COUNTED),
        box.c.last_seen >= each.since,
        or_(box.c.release.is_(None), box.c.release <= each.release),
        or_(runs, would_try, failed, under_way),
    )
    drawn, ended = connection.execute(query).one()
    return drawn, int(ended or 0)


def count_too_early(
    connection: Connection,
    each: Rollout,
    counts: ColumnElement[bool],
    last_silent: float,
    received_after: float | None,
) -> int:
    """
    Count the boxes under way that began after the last one of the bad boxes.

    :param counts: the condition for the keys that count.
    :param last_silent: the latest time when one of the silent boxes was last heard.
    :param received_after: as in `queries.outcomes.count_results`.
    """
    tried = attempt.c.release == each.release
    if received_after is not None:
        tried = and_(tried, attempt.c.received > received_after)
    count = and_(counts, box.c.state.in_(TRIED))
    failed = and_(tried, has_failed())
    joined = attempt.join(box, box.c.id == attempt.c.box)
    last = connection.scalar(
        select(func.max(attempt.c.received)).select_from(joined).where(failed, count)
    )
    later = select(func.count(attempt.c.box.distinct())).select_from(joined)
    found = connection.scalar(
        later.where(
            tried,
            attempt.c.outcome.is_(None),
            attempt.c.received > max(last_silent, last or 0.0),
            # A box that has failed before, and tries again, is in the test already.
            box.c.id.not_in(select(attempt.c.box).where(failed)),
            count,
        )
    )
    return found or 0


def _word(each: Result) -> str:
    if each.outcome == SILENT or each.reason in ("", "other"):
        return each.outcome
    return each.reason
