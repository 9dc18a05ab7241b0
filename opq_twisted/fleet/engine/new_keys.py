"""Tells once a day how many new keys of boxes no operator has admitted."""

from sqlalchemy import Connection, func, select

from opq_twisted.fleet.audit import AuditNote, record
from opq_twisted.fleet.engine.executor import WHO
from opq_twisted.fleet.store.schema import audit, box
from opq_twisted.fleet.store.states import BoxState
from opq_twisted.fleet.webhook.outbox import Event, Notice, Notify

_DAY = 86400.0

_WHAT = "enrolment"


def tell_new_keys(connection: Connection, notify: Notify, now: float) -> None:
    """
    Tell how many new keys there are, unless that was told within the last day.

    :param now: seconds since the epoch.
    """
    last = connection.scalar(
        # A clock that was ahead has written times that lie in the future.
        select(func.max(audit.c.at)).where(
            audit.c.what == _WHAT, audit.c.at.between(now - _DAY, now + _DAY)
        )
    )
    keys = 0 if last is not None else _count(connection, now)
    if not keys:
        return
    change = "A new key of a box has come in." if keys == 1 else f"{keys:,} new keys have come in."
    because = "They came with reports, and nobody has admitted them: opq-fleet boxes lists them."
    record(connection, AuditNote(who=WHO, because=because), now, what=_WHAT, change=change)
    told = Notice(Event.ENROLMENT, f"{change} {because}", numbers={"keys": keys})
    notify(connection, now, told)


def _count(connection: Connection, now: float) -> int:
    query = select(func.count()).where(
        box.c.state == BoxState.KNOWN, box.c.first_seen.between(now - _DAY, now)
    )
    return connection.execute(query).scalar_one()
