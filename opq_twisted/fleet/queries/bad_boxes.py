"""Finds some of the boxes on which a release failed, for each reason."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, case, func, select

from opq_twisted.fleet.queries.outcomes import SILENT, bad_attempts
from opq_twisted.fleet.queries.silence import Silence
from opq_twisted.fleet.store.schema import attempt, box
from opq_twisted.fleet.store.states import TRIED
from opq_twisted.fleet.store.unindexed import unindexed

#: How many boxes are returned for each reason, and for all reasons together.
_NAMED, _MOST = 5, 60


def name_bad_boxes(
    connection: Connection, channel: str, release: int, silence: Silence, after: float | None
) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """
    Return the `box_id` and the key of some bad boxes of a channel, by the reason.

    :param silence: says which boxes are silent.
    :param after: only attempts that were first reported after this time count; None for all.
    """
    reason = case((attempt.c.outcome.is_(None), SILENT), else_=attempt.c.reason).label("reason")
    tried = (
        select(reason, box.c.id, box.c.box_id, box.c.key_id)
        .select_from(attempt.join(box, box.c.id == attempt.c.box))
        .where(
            attempt.c.release == release,
            unindexed(box.c.channel) == channel,
            box.c.state.in_(TRIED),
            attempt.c.received > (after or 0.0),
        )
    )
    # A box may have failed more than once for the same reason.
    bad = bad_attempts(tried, silence)
    place = func.row_number().over(partition_by=bad.c.reason, order_by=bad.c.id).label("place")
    numbered = select(bad, place).subquery()
    query = select(numbered).where(numbered.c.place <= _NAMED)
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in connection.execute(query.order_by(numbered.c.reason, numbered.c.place).limit(_MOST)):
        named = {"box_id": row.box_id, "key_id": row.key_id}
        found.setdefault(row.reason or "", []).append(named)
    return found
