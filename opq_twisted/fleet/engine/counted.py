"""Counts the boxes whose results matter for a rollout, each once, by its worst attempt."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from attrs import frozen
from sqlalchemy import ColumnElement, Connection, and_, or_

from opq_twisted.fleet.queries.outcomes import SILENT, UNDER_WAY, Result, count_results
from opq_twisted.fleet.queries.silence import Silence
from opq_twisted.fleet.rollouts.rollout import Rollout
from opq_twisted.fleet.store.schema import box
from opq_twisted.fleet.store.states import BoxState
from opq_twisted.fleet.store.unindexed import unindexed
from opq_twisted.report.codes import Outcome


@frozen(kw_only=True)
class Counts:
    """The numbers of boxes whose results matter for a rollout."""

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


def _word(each: Result) -> str:
    if each.outcome == SILENT or each.reason in ("", "other"):
        return each.outcome
    return each.reason
