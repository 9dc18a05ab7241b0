"""Adds details that only the page shows to the state of the fleet or of a release."""

from sqlalchemy import Connection, select

from opq_twisted.fleet.control.answers import Content
from opq_twisted.fleet.engine.judge import Judge
from opq_twisted.fleet.engine.outages import find_fleet_outage
from opq_twisted.fleet.queries.bad_boxes import name_bad_boxes
from opq_twisted.fleet.queries.history import read_history
from opq_twisted.fleet.queries.shares import read_shares
from opq_twisted.fleet.queries.silence import Silence
from opq_twisted.fleet.rollouts.steps import first_step
from opq_twisted.fleet.store.schema import audit


def overview_content(connection: Connection, status: Content, now: float, judge: Judge) -> Content:
    """
    Add the history of the fleet, and details to each rollout.

    The details are the bad boxes, the last hold, and the beginning of an outage of the network.

    :param status: the state of the fleet, as `opq-fleet status --json` shows it.
    :param now: seconds since the epoch.
    """
    current = [each["release"] for each in status["channels"]]
    return {
        **_with_details(connection, status, now, judge),
        "history": read_history(connection, now, current),
    }


def release_content(connection: Connection, found: Content, now: float, judge: Judge) -> Content:
    """
    Add the details of the overview and the past shares to each rollout.

    :param found: the state of a release, as `opq-fleet release --json` shows it.
    :param now: seconds since the epoch.
    """
    found = _with_details(connection, found, now, judge)
    channels = [
        {
            **each,
            "shares": read_shares(
                connection, each["channel"], each["release"], each["announced_at"]
            ),
        }
        for each in found["channels"]
    ]
    return {**found, "channels": channels}


def _with_details(connection: Connection, found: Content, now: float, judge: Judge) -> Content:
    channels = found["channels"]
    silence = judge.silence(connection, now, {each["channel"] for each in channels})
    return {**found, "channels": [_detailed(connection, each, silence) for each in channels]}


def _detailed(connection: Connection, channel: Content, silence: Silence) -> Content:
    name, release = channel["channel"], channel["release"]
    bad = name_bad_boxes(connection, name, release, silence, channel["acknowledged_at"])
    return {
        **channel,
        "bad_boxes": bad,
        "first_bp": first_step(connection, name),
        "hold": _last_hold(connection, name, release) if channel["state"] == "held" else None,
        "silent_since": find_fleet_outage(connection, name),
    }


def _last_hold(connection: Connection, channel: str, release: int) -> Content | None:
    query = (
        select(audit.c.at, audit.c.who, audit.c.change, audit.c.because)
        .where(audit.c.release == release, audit.c.channel == channel, audit.c.what == "hold")
        .order_by(audit.c.id.desc())
        .limit(1)
    )
    row = connection.execute(query).mappings().first()
    return None if row is None else dict(row)
