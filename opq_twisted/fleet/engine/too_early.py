"""Counts the boxes that began to install a release after the last one of the bad boxes."""

from sqlalchemy import ColumnElement, Connection, and_, func, select

from opq_twisted.fleet.queries.outcomes import has_failed
from opq_twisted.fleet.rollouts.rollout import Rollout
from opq_twisted.fleet.store.schema import attempt, box
from opq_twisted.fleet.store.states import TRIED


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
