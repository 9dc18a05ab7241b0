"""Sends the messages for the webhook one at a time, and repeats those that fail."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from opq_twisted.common.heartbeat import Heartbeat
from opq_twisted.fleet.store.errors import StoreUnavailable
from opq_twisted.fleet.webhook import outbox
from opq_twisted.fleet.webhook.outbox import Notice
from opq_twisted.fleet.webhook.post import NotAccepted, Poster
from opq_twisted.fleet.webhook.schedule import (
    MAX_TRIES,
    MAX_WAITING,
    Message,
    SendResult,
    claim,
    drop,
    settle,
)

#: Seconds between two checks for due messages, which another process may have stored.
PERIOD = 10.0

#: The results that the metrics count: of attempts, and of messages that are not sent any more.
_RESULTS = ("delivered", "failed", "given-up", "dropped")

#: The number of dropped messages, and the message that is due.
_Next = tuple[int, Message | None]

#: Runs a function that changes the database, as `Database.write`.
Write = Callable[[Callable[[Connection], _Next]], Deferred[_Next]]


class Sender(Heartbeat):
    """
    Sends the messages that are due, also those of other processes with the same database.

    If a process is killed, or an answer is lost, a message may arrive twice. Both times it has the
    same `Opq-Delivery`.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, write: Write, poster: Poster, now: Callable[[], float]
    ) -> None:
        """
        :param write: its functions must run one after the other.
        :param now: gives the time of day, in seconds since the epoch.
        """
        super().__init__(reactor, self._send_all, lambda: PERIOD)
        self._reactor = reactor
        self._write = write
        self._poster = poster
        self._now = now
        #: The result of the last attempt, until it is stored in the database.
        self._last_result: SendResult | None = None
        self._request: Deferred[None] | None = None
        #: Fires at the end of the run that is under way.
        self._idle: Deferred[None] | None = None
        self._is_store_away = False
        #: Whether the receiver accepted the last message.
        self.is_up = True
        #: The counts of `_RESULTS`.
        self.results: Counter[str] = Counter(dict.fromkeys(_RESULTS, 0))
        self.run_now()

    def put(self, connection: Connection, now: float, new_notice: Notice) -> None:
        """Store a message, and send it soon after the commit; a `Notify`."""
        outbox.put(connection, now, new_notice)
        # The functions of `write` run one after the other: the next one comes after the commit.
        self._reactor.callFromThread(self.run_now)

    def stopService(self) -> Deferred[None] | None:
        """Cancel the request that is under way; its message is sent again later."""
        super().stopService()
        if self._request is not None:
            self._request.cancel()
        return self._idle

    async def _send_all(self) -> None:
        idle = self._idle = Deferred()
        try:
            while (message := await self._next_message()) is not None:
                await self._send(message)
        finally:
            self._idle = None
            idle.callback(None)

    async def _next_message(self) -> Message | None:
        """Store the result of the last attempt, and return the message that is due."""
        if not (self.running or self._last_result):
            return None
        now, result = self._now(), self._last_result

        def change(connection: Connection) -> _Next:
            if result is not None:
                settle(connection, result, now)
            return drop(connection, now), claim(connection, now) if self.running else None

        try:
            dropped, message = await self._write(change)
        except StoreUnavailable as error:
            self._note_store(error)
            return None
        self._last_result = None
        self._note_store(None)
        self._note_dropped(dropped)
        return message

    async def _send(self, message: Message) -> None:
        self._request = Deferred.fromCoroutine(self._poster.post(message))
        try:
            await self._request
        except NotAccepted as error:
            # A request that was cancelled by `stopService` says nothing about its receiver.
            if self.running:
                self._note_failure(message, error)
        else:
            self._note_delivery(message)
        finally:
            self._request = None

    def _note_delivery(self, message: Message) -> None:
        self._last_result = SendResult(message, is_delivered=True)
        self.results["delivered"] += 1
        if not self.is_up:
            self._log.info("The webhook {name} accepts messages again.", name=self._name)
        self.is_up = True

    def _note_failure(self, message: Message, error: NotAccepted) -> None:
        self._last_result = SendResult(message, is_delivered=False, retry_after=error.retry_after)
        self.results["failed"] += 1
        if self.is_up:
            self._log.warn(
                "The webhook {name} does not accept a message: {error}. Each one is sent up to "
                "{tries} times, within three hours.",
                name=self._name,
                error=error,
                tries=MAX_TRIES,
            )
        self.is_up = False
        if message.is_last_try:
            self.results["given-up"] += 1
            self._log.error(
                "The webhook {name} did not accept a message, which is not sent again: {error}. "
                "The message is {body}",
                name=self._name,
                error=error,
                body=message.body,
            )

    def _note_dropped(self, messages: int) -> None:
        if messages:
            self.results["dropped"] += messages
            self._log.error(
                "{messages} messages for the webhook {name} were dropped: more than {most:,} "
                "waited, or they were older than three days. opq-fleet audit shows all changes.",
                messages=messages,
                name=self._name,
                most=MAX_WAITING,
            )

    def _note_store(self, error: StoreUnavailable | None) -> None:
        if error is not None and not self._is_store_away:
            self._log.warn("No message is sent to the webhook for now: {error}", error=error)
        self._is_store_away = error is not None

    @property
    def _name(self) -> str:
        return self._poster.receiver.name
