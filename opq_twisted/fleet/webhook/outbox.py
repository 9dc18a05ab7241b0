"""Keeps the messages for the webhook in the database until they are delivered."""

import json
import secrets
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Protocol

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
    #: Many boxes are silent that installed nothing, and when they are heard again.
    FLEET_SILENT = "fleet-silent"
    FLEET_HEARD = "fleet-heard"
    WIDENED = "widened"
    #: The release is out to all boxes for which it was signed.
    DONE = "done"
    #: Keys of boxes have come in that nobody has admitted.
    ENROLMENT = "enrolment"
    #: Somebody tries the webhook.
    TEST = "test"


class Notify(Protocol):
    """Tells somebody of an event, in the transaction of the change that it is about."""

    def __call__(
        self,
        connection: Connection,
        now: float,
        event: Event,
        text: str,
        /,
        channel: str | None = None,
        release: int | None = None,
        numbers: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Tell it.

        :param now: seconds since the epoch.
        :param text: whole sentences for people.
        :param numbers: what programs may want to know besides.
        """


def put(
    connection: Connection,
    now: float,
    event: Event,
    text: str,
    /,
    channel: str | None = None,
    release: int | None = None,
    numbers: Mapping[str, Any] | None = None,
) -> None:
    """Keep a message that is to be sent; a `Notify`."""
    body = make_body(now, event, text, channel, release, numbers)
    row = {"at": now, "body": body, "tries": 0, "next_at": now}
    connection.execute(insert(notice).values(row))


def make_body(
    now: float,
    event: Event,
    text: str,
    channel: str | None = None,
    release: int | None = None,
    numbers: Mapping[str, Any] | None = None,
) -> str:
    """Return the JSON of a message, which has an id of its own."""
    body = {
        "id": secrets.token_hex(16),
        "event": event.value,
        "at": now,
        "channel": channel,
        "release": release,
        "text": text,
        "numbers": dict(numbers or {}),
    }
    return json.dumps(body)


def discard(
    _connection: Connection,
    _now: float,
    _event: Event,
    _text: str,
    /,
    channel: str | None = None,
    release: int | None = None,
    numbers: Mapping[str, Any] | None = None,
) -> None:
    """Keep no message: there is no webhook; a `Notify`."""
