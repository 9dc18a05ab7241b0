"""Chooses the message to send next, and the time when a failed message is sent again."""

import json
from typing import Any

from attrs import frozen
from sqlalchemy import Connection, Row, and_, delete, or_, select, update

from opq_twisted.fleet.store.schema import notice

#: Seconds after each failure until the message is sent again. Each pause is longer than an attempt,
#: so that another server with the same database does not send the message at the same time.
PAUSES = (60.0, 300.0, 1800.0, 7200.0)

#: A message is sent at most so many times.
MAX_TRIES = len(PAUSES) + 1

#: The longest `Retry-After` of a receiver that is obeyed, in seconds.
_LONGEST = PAUSES[-1]

#: The limit of waiting messages, and the seconds after which a message is too old to be sent.
MAX_WAITING = 1000
_MAX_AGE = 3 * 86400.0


@frozen
class Message:
    """A message in the database."""

    #: The number of its row.
    row: int
    #: The body of the request, which is JSON.
    body: str
    #: The number of attempts to send it, including the one that begins now.
    tries: int

    @property
    def event(self) -> str:
        """The value of its `Event`."""
        return self._field("event")

    @property
    def delivery(self) -> str:
        """Its unique id, which is the same in all attempts."""
        return self._field("id")

    @property
    def is_last_try(self) -> bool:
        """Whether it will be deleted even if this attempt fails."""
        return self.tries >= MAX_TRIES

    def _field(self, name: str) -> str:
        return str(json.loads(self.body)[name])


@frozen
class SendResult:
    """The result of an attempt to send a message."""

    message: Message
    is_delivered: bool
    #: The `Retry-After` of the receiver, in seconds.
    retry_after: float = 0.0


def claim(connection: Connection, now: float) -> Message | None:
    """
    Return the message that is due; of several, the one with the fewest attempts.

    Until `settle` is called, the attempt counts as failed. So if this server is killed meanwhile,
    the message is sent again after the pause, by this server or another one.

    :param now: seconds since the epoch.
    """
    # The clock may have been ahead when the message was stored.
    is_due = or_(notice.c.next_at <= now, notice.c.next_at > now + _LONGEST)
    query = select(notice).where(is_due).order_by(notice.c.tries, notice.c.id).limit(1)
    row = connection.execute(query.with_for_update(skip_locked=True)).first()
    return None if row is None else _begin(connection, row, now)


def settle(connection: Connection, result: SendResult, now: float) -> None:
    """Delete a message that was delivered or had its last attempt; otherwise postpone it."""
    message = result.message
    # SQLite may have given the number of a deleted row to another message.
    which = and_(notice.c.id == message.row, notice.c.body == message.body)
    if result.is_delivered or message.is_last_try:
        connection.execute(delete(notice).where(which))
    elif result.retry_after:
        pause = max(PAUSES[message.tries - 1], min(result.retry_after, _LONGEST))
        connection.execute(update(notice).where(which).values(next_at=now + pause))


def drop(connection: Connection, now: float) -> int:
    """Delete messages that are too many, too old, or had all attempts; return their number."""
    newest = select(notice.c.id).order_by(notice.c.id.desc()).offset(MAX_WAITING).limit(1)
    first = connection.scalar(newest)
    is_old = notice.c.at < now - _MAX_AGE
    # A server was killed in the last attempt.
    is_tried = and_(notice.c.tries >= MAX_TRIES, notice.c.next_at <= now)
    is_useless = or_(is_old, is_tried, notice.c.id <= (0 if first is None else first))
    return connection.execute(delete(notice).where(is_useless)).rowcount


def _begin(connection: Connection, row: Row[Any], now: float) -> Message:
    tries = row.tries + 1
    pause = PAUSES[min(tries, len(PAUSES)) - 1]
    values = {"tries": tries, "next_at": now + pause}
    connection.execute(update(notice).where(notice.c.id == row.id).values(values))
    return Message(row.id, row.body, tries)
