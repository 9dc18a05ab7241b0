"""Says which message is sent next, and when one is sent again that was not delivered."""

import json
from typing import Any

from attrs import frozen
from sqlalchemy import Connection, Row, and_, delete, or_, select, update

from opq_twisted.fleet.store.schema import notice

#: Seconds until a message is sent again after each of its failures but the last one. They are
#: longer than a try: another server with the same database does not send it meanwhile.
PAUSES = (60.0, 300.0, 1800.0, 7200.0)

#: How often a message is sent at most.
MAX_TRIES = len(PAUSES) + 1

#: Seconds for which a receiver may put off a message that it does not take now.
_LONGEST = PAUSES[-1]

#: Messages that wait at most, and the seconds after which nobody needs one any more.
MAX_WAITING = 1000
_MAX_AGE = 3 * 86400.0


@frozen
class Message:
    """A message in the database."""

    #: The number of its row.
    row: int
    #: The body of the request, which is JSON.
    body: str
    #: How often it was sent, with the try that begins now.
    tries: int

    @property
    def event(self) -> str:
        """What it is about."""
        return self._field("event")

    @property
    def delivery(self) -> str:
        """The same for all tries, and no other message has it."""
        return self._field("id")

    @property
    def is_last_try(self) -> bool:
        """Whether it is given up if it is not delivered now."""
        return self.tries >= MAX_TRIES

    def _field(self, name: str) -> str:
        return str(json.loads(self.body)[name])


@frozen
class Ended:
    """How a try ended."""

    message: Message
    is_delivered: bool
    #: The seconds after which the receiver wants to be asked again.
    retry_after: float = 0.0


def claim(connection: Connection, now: float) -> Message | None:
    """
    Return the message that is to be sent now, the one that was sent least often first.

    It counts as not delivered until `settle` is called: a server that is killed meanwhile, or
    another one with the same database, sends it again only after the pause.

    :param now: seconds since the epoch.
    """
    # The clock may have been ahead when a message was kept.
    is_due = or_(notice.c.next_at <= now, notice.c.next_at > now + _LONGEST)
    query = select(notice).where(is_due).order_by(notice.c.tries, notice.c.id).limit(1)
    row = connection.execute(query.with_for_update(skip_locked=True)).first()
    return None if row is None else _begin(connection, row, now)


def settle(connection: Connection, ended: Ended, now: float) -> None:
    """Delete a message that is delivered or given up, or put it off for as long as wanted."""
    message = ended.message
    # SQLite may have given the number of a row that was deleted to another one.
    which = and_(notice.c.id == message.row, notice.c.body == message.body)
    if ended.is_delivered or message.is_last_try:
        connection.execute(delete(notice).where(which))
    elif ended.retry_after:
        pause = max(PAUSES[message.tries - 1], min(ended.retry_after, _LONGEST))
        connection.execute(update(notice).where(which).values(next_at=now + pause))


def drop(connection: Connection, now: float) -> int:
    """Delete the messages that are too many, too old, or were sent too often; returns how many."""
    newest = select(notice.c.id).order_by(notice.c.id.desc()).offset(MAX_WAITING).limit(1)
    first = connection.scalar(newest)
    is_old = notice.c.at < now - _MAX_AGE
    # The server was killed in the last try.
    is_tried = and_(notice.c.tries >= MAX_TRIES, notice.c.next_at <= now)
    is_useless = or_(is_old, is_tried, notice.c.id <= (0 if first is None else first))
    return connection.execute(delete(notice).where(is_useless)).rowcount


def _begin(connection: Connection, row: Row[Any], now: float) -> Message:
    tries = row.tries + 1
    pause = PAUSES[min(tries, len(PAUSES)) - 1]
    values = {"tries": tries, "next_at": now + pause}
    connection.execute(update(notice).where(notice.c.id == row.id).values(values))
    return Message(row.id, row.body, tries)
