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
    """What a message is about."""

    #: A release is bad on a box, for the first time.
    FIRST_BAD = "first-bad"
    #: The engine has held a release, or with `observe` would have.
    HELD = "held"
    #: A step is over, and a person has to decide: the numbers are neither good nor bad.
    INCONCLUSIVE = "inconclusive"
    #: A step is over and well, and with `ask` an operator has to widen it.
    READY = "ready"
    #: Many boxes that installed nothing are silent, and when they are heard again.
    FLEET_SILENT = "fleet-silent"
    FLEET_HEARD = "fleet-heard"
    WIDENED = "widened"
    #: The release is out to all boxes for which it was signed.
    DONE = "done"
    #: Keys of boxes have come in that nobody has admitted.
    ENROLMENT = "enrolment"
    #: Somebody tries the webhook.
    TEST = "test"


@frozen
class Notice:
    """What a message says."""

    event: Event
    #: Whole sentences for people.
    text: str
    channel: str | None = None
    release: int | None = None
    #: What programs may want to know besides.
    numbers: Mapping[str, Any] = Factory(dict)


#: Tells somebody of an event, in the transaction of the change that it is about, and with the time
#: in seconds since the epoch.
Notify = Callable[[Connection, float, Notice], None]


def put(connection: Connection, now: float, told: Notice) -> None:
    """Keep a message that is to be sent; a `Notify`."""
    row = {"at": now, "body": make_body(now, told), "tries": 0, "next_at": now}
    connection.execute(insert(notice).values(row))


def discard(_connection: Connection, _now: float, _told: Notice) -> None:
    """Keep no message: there is no webhook; a `Notify`."""


def make_body(now: float, told: Notice) -> str:
    """Return the JSON of a message, which has an id of its own."""
    body = {
        "id": secrets.token_hex(16),
        "event": told.event.value,
        "at": now,
        "channel": told.channel,
        "release": told.release,
        "text": told.text,
        "numbers": dict(told.numbers),
    }
    return json.dumps(body)
