"""Tells that the boxes of a channel have fallen silent together, and when they are heard again."""

from sqlalchemy import Connection

from opq_twisted.fleet.audit import AuditNote, record
from opq_twisted.fleet.engine.assessment import Assessment
from opq_twisted.fleet.engine.executor import WHO
from opq_twisted.fleet.engine.outages import note_fleet
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.webhook.outbox import Event, Notice, Notify


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
