"""Says that the boxes of a channel have fallen silent together, and that they are heard again."""

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
    Note the outage of a channel, or its end, and tell that once.

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
        f"{controls.missing:,} of {boxes:,} boxes of the channel {channel} are silent that "
        "installed nothing."
    )
    change = (
        "Its rollout is not widened, and no silence counts, until they are heard again. It may be "
        "the network, or this server."
        if is_silent
        else "Its rollout goes on: the boxes are heard again."
    )
    note = AuditNote(who=WHO, because=because)
    record(connection, note, now, what=event.value, change=change, channel=channel)
    numbers = {"heard": controls.heard, "missing": controls.missing}
    notify(connection, now, Notice(event, f"{because} {change}", channel, numbers=numbers))
