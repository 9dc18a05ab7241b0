"""Tells operators when a channel falls silent or is heard again, and when new keys come in."""

from sqlalchemy import Connection, func, select

from opq_twisted.fleet.audit import AuditNote, record
from opq_twisted.fleet.engine.assessment import Assessment
from opq_twisted.fleet.engine.executor import WHO
from opq_twisted.fleet.engine.outages import note_fleet
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.store.schema import audit, box
from opq_twisted.fleet.store.states import BoxState
from opq_twisted.fleet.webhook.outbox import Event, Notice, Notify

_DAY = 86400.0

#: The kind of the entries in the audit that are about new keys.
_ENROLMENT = "enrolment"


def tell_silence(
    connection: Connection,
    assessment: Assessment,
    timing: Timing,
    notify: Notify,
    now: float,
) -> None:
    """
    Store the beginning or the end of an outage of a channel, and tell the operators once.

    :param now: seconds since the epoch.
    """
    channel, is_silent = assessment.rollout.channel, assessment.circumstances.is_fleet_silent
    began = now - timing.missed_after
    if not note_fleet(connection, channel, is_silent, began=began, now=now):
        return
    event = Event.FLEET_SILENT if is_silent else Event.FLEET_HEARD
    controls = assessment.controls
    boxes = controls.heard + controls.missing
    because = (
        f"{controls.missing:,} of the {boxes:,} boxes of the channel {channel} that installed "
        "nothing are silent."
    )
    change = (
        "Until they are heard again, its rollout is not widened, and no silent box counts as bad. "
        "The cause may be the network, or this server."
        if is_silent
        else "Its rollout goes on: the boxes are heard again."
    )
    note = AuditNote(who=WHO, because=because)
    record(connection, note, now, what=event.value, change=change, channel=channel)
    numbers = {"heard": controls.heard, "missing": controls.missing}
    notify(connection, now, Notice(event, f"{because} {change}", channel, numbers=numbers))


def tell_new_keys(connection: Connection, notify: Notify, now: float) -> None:
    """
    Tell how many new keys there are, unless that was told within the last day.

    :param now: seconds since the epoch.
    """
    last = connection.scalar(
        # A clock that was ahead has written times that lie in the future.
        select(func.max(audit.c.at)).where(
            audit.c.what == _ENROLMENT, audit.c.at.between(now - _DAY, now + _DAY)
        )
    )
    keys = 0 if last is not None else _count_new_keys(connection, now)
    if not keys:
        return
    change = "A new key of a box has come in." if keys == 1 else f"{keys:,} new keys have come in."
    because = "They came with reports, and nobody has admitted them: opq-fleet boxes lists them."
    record(connection, AuditNote(who=WHO, because=because), now, what=_ENROLMENT, change=change)
    notice = Notice(Event.ENROLMENT, f"{change} {because}", numbers={"keys": keys})
    notify(connection, now, notice)


def _count_new_keys(connection: Connection, now: float) -> int:
    query = select(func.count()).where(
        box.c.state == BoxState.KNOWN, box.c.first_seen.between(now - _DAY, now)
    )
    return connection.execute(query).scalar_one()
