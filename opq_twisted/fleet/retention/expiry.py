"""Deletes old rows, in batches so small that reports are stored in between."""

from sqlalchemy import Connection, CursorResult, Select, and_, delete, func, select, update

from opq_twisted.fleet.store.schema import attempt, audit, box
from opq_twisted.fleet.store.states import COUNTED, BoxState

_DAY = 86400.0
#: Days for which attempts are kept.
ATTEMPTS = 400
#: Days of silence after which a box counts as gone, and after which it is deleted.
SILENCE = 180
BOXES = 400
#: Days for which the audit is kept. The database refuses to delete rows of the last two years, by
#: its own clock.
AUDIT = 731

#: So many of the newest attempts of a box are kept. Anybody can make a key, and send 100 a day.
NEWEST = 200

#: The number of rows in a batch; for attempts, the number of boxes.
BATCH = 500

#: The time of 2024-01-01: a machine without a battery begins in 1970.
_EARLIEST = 19_723 * _DAY


def delete_attempts(connection: Connection, now: float, after: int) -> int | None:
    """
    Delete the attempts of the next boxes, in the order of their rows, that are old or too many.

    :param after: the row of the last box of the batch before; 0 at the beginning.
    :returns: the row to go on after; None at the end.
    """
    rows = select(box.c.id).where(box.c.id > after).order_by(box.c.id).limit(BATCH).subquery()
    last: int | None = connection.scalar(select(func.max(rows.c.id)))
    if last is not None:
        connection.execute(
            delete(attempt).where(
                attempt.c.box > after,
                attempt.c.box <= last,
                attempt.c.received < now - ATTEMPTS * _DAY,
            )
        )
        _trim(connection, after, last)
    return last


def _trim(connection: Connection, after: int, last: int) -> None:
    """Delete the attempts of each of these boxes that are not among its newest."""
    crowded = (
        select(attempt.c.box)
        .where(attempt.c.box > after, attempt.c.box <= last)
        .group_by(attempt.c.box)
        .having(func.count() > NEWEST)
    )
    for row in connection.scalars(crowded).all():
        newest = select(attempt.c.received).where(attempt.c.box == row)
        newest = newest.order_by(attempt.c.received.desc()).offset(NEWEST - 1).limit(1)
        since = connection.scalar(newest)
        connection.execute(delete(attempt).where(attempt.c.box == row, attempt.c.received < since))


def retire_boxes(connection: Connection, now: float) -> bool:
    """Mark boxes as gone that were silent for long; return whether there may be more of them."""
    silent = and_(box.c.state.in_(COUNTED), box.c.last_seen < now - SILENCE * _DAY)
    change = update(box).where(box.c.id.in_(_batch(silent))).values(state=BoxState.GONE)
    return _is_full(connection.execute(change))


def delete_boxes(connection: Connection, now: float) -> bool:
    """
    Delete the boxes that are gone, and their attempts; return whether there may be more of them.

    Distrusted keys stay. Otherwise they would be trusted again at their next report.
    """
    gone = and_(
        box.c.state.in_((BoxState.GONE, BoxState.REPLACED)),
        box.c.last_seen < now - BOXES * _DAY,
    )
    return _is_full(connection.execute(delete(box).where(box.c.id.in_(_batch(gone)))))


def delete_audit(connection: Connection, now: float) -> bool:
    """
    Delete the oldest rows of the audit; return whether there may be more of them.

    Rows from before 2024 stay: the machine did not know the time yet, so their age is unknown.
    """
    is_old = audit.c.at.between(_EARLIEST, now - AUDIT * _DAY)
    old = select(audit.c.id).where(is_old).limit(BATCH)
    return _is_full(connection.execute(delete(audit).where(audit.c.id.in_(old))))


def _batch(condition: object) -> Select[tuple[int]]:
    # If another server has locked a row, its box is reporting just now.
    query = select(box.c.id).where(condition).limit(BATCH)  # type: ignore[arg-type]
    return query.with_for_update(skip_locked=True)


def _is_full(result: CursorResult[object]) -> bool:
    return result.rowcount >= BATCH
