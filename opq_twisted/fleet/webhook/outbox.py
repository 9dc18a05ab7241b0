"""Keeps the messages for the webhook in the database until they are delivered."""

import json
import secrets
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from attrs import Factory, frozen
from sqlalchemy import Connection, insert

from opq_twisted.fleet.store.schema import notice


class Event(StrEnum):
    """The subject of a message."""

    #: For the first time, a release is bad on a box.
    FIRST_BAD = "first-bad"
    #: The engine has held a release; with `observe`, it would have held it.
    HELD = "held"
    #: A step is over, and a person has to decide: the numbers are neither good nor bad.
    INCONCLUSIVE = "inconclusive"
    #: A step is over, and the numbers are good; with `ask`, an operator has to widen the rollout.
    READY = "ready"
    #: Many boxes that installed nothing are silent, or they are heard again.
    FLEET_SILENT = "fleet-silent"
    FLEET_HEARD = "fleet-heard"
    WIDENED = "widened"
    #: The release is out to all boxes for which it was signed.
    DONE = "done"
    #: There are new keys of boxes that nobody has admitted.
    ENROLMENT = "enrolment"
    #: Somebody tests the webhook.
    TEST = "test"


@frozen
class Notice:
    """The content of a message."""

    event: Event
    #: Whole sentences for people.
    text: str
    channel: str | None = None
    release: int | None = None
    #: More values, for programs.
    numbers: Mapping[str, Any] = Factory(dict)


#: Sends a message about a change, in the transaction of that change; the number is the time in
#: seconds since the epoch.
Notify = Callable[[Connection, float, Notice], None]


def put(connection: Connection, now: float, new_notice: Notice) -> None:
    """Store a message, which the sender will send; a `Notify`."""
    row = {"at": now, "body": make_body(now, new_notice), "tries": 0, "next_at": now}
    connection.execute(insert(notice).values(row))


def discard(_connection: Connection, _now: float, _new: Notice) -> None:
    """Do nothing, because there is no webhook; a `Notify`."""


def make_body(now: float, new_notice: Notice) -> str:
    """Return the JSON of a message, which has an id of its own."""
    body = {
        "id": secrets.token_hex(16),
        "event": new_notice.event.value,
        "at": now,
        "channel": new_notice.channel,
        "release": new_notice.release,
        "text": new_notice.text,
        "numbers": dict(new_notice.numbers),
    }
    return json.dumps(body)
