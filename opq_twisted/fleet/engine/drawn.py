"""Counts the boxes whose turn it is in a step of a rollout."""

from sqlalchemy import ColumnElement, Connection, and_, case, func, or_, select

from opq_twisted.fleet.queries.outcomes import has_failed
from opq_twisted.fleet.rollouts.rollout import Rollout
from opq_twisted.fleet.store.schema import attempt, box
from opq_twisted.fleet.store.states import COUNTED
from opq_twisted.report.codes import Waiting


def count_drawn(
    connection: Connection, each: Rollout, counts: ColumnElement[bool]
) -> tuple[int, int]:
    """
    Return two numbers: the boxes whose turn has come, and those of them that have ended an attempt.

    A box counts if it was seen in this step, and has an attempt to install the release or would
    begin one by itself: it installs automatically, and does not wait for its turn. Boxes with a
    newer release are left out.

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
    drawn, through = connection.execute(query).one()
    return drawn, int(through or 0)
