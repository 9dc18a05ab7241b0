"""The service that sends the messages, with a receiver that the test plays."""

from collections.abc import Callable
from typing import Any, cast

from sqlalchemy import func, select
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock

from opq_twisted.fleet.store.schema import notice
from opq_twisted.fleet.webhook.outbox import Event, Notice
from opq_twisted.fleet.webhook.post import NotAccepted, Poster, Receiver
from opq_twisted.fleet.webhook.schedule import MAX_TRIES, MAX_WAITING, PAUSES, Message
from opq_twisted.fleet.webhook.sender import PERIOD, Sender
from tests.helpers.box_fakes import logged
from tests.helpers.fleet_control import DatabaseInPlace
from tests.helpers.fleet_rows import NOW, add_messages
from tests.helpers.store_case import StoreCase


class ReactorClock(Clock):
    """A clock with the method of a reactor that other threads call."""

    def callFromThread(self, call: Callable[[], object]) -> None:
        """Call in the next turn."""
        self.callLater(0, call)


class FakePoster:
    """Keeps each message until the test says how its try ends."""

    receiver = Receiver("https://chat.example.org/hooks/s3same", None)

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.posted: Deferred[None] | None = None

    async def post(self, message: Message) -> None:
        assert self.posted is None, "one at a time"
        self.sent.append(message)
        self.posted = Deferred(lambda posted: posted.errback(NotAccepted("it was broken off")))
        try:
            await self.posted
        finally:
            self.posted = None

    def take(self) -> None:
        """Take the message that is under way."""
        assert self.posted is not None
        self.posted.callback(None)

    def refuse(self, retry_after: float = 0.0) -> None:
        """Refuse it."""
        assert self.posted is not None
        self.posted.errback(NotAccepted("it answers with status 500", retry_after))


class SenderTests(StoreCase):
    """A sender that runs; the tests of the schedule run on each database."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = ReactorClock()
        self.poster = FakePoster()
        self.store = DatabaseInPlace(self.database)
        self.said = logged(self)
        self.sender = self.new_sender()
        self.sender.startService()

    def tearDown(self) -> None:
        # A coroutine that is unfinished at the end of a test logs an error.
        self.sender.stopService()

    def new_sender(self) -> Sender:
        return Sender(
            self.clock,
            self.store.write,
            cast(Poster, self.poster),
            lambda: NOW + self.clock.seconds(),
        )

    def put(self, text: str = "It is held.", sender: Sender | None = None) -> None:
        keep = (sender or self.sender).put
        told = Notice(Event.HELD, text)
        self.write(lambda store: keep(store, NOW + self.clock.seconds(), told))
        self.clock.advance(0)
        self.clock.advance(0)

    def count(self) -> int:
        query = select(func.count()).select_from(notice)
        return self.read(lambda store: store.execute(query).scalar_one())

    def texts(self) -> list[str]:
        return [message.body.partition('"text": "')[2][0] for message in self.poster.sent]

    def test_soon(self) -> None:
        """A message is sent right after its commit, and deleted when it is delivered."""
        self.put()
        self.assertEqual(len(self.poster.sent), 1)
        self.poster.take()
        self.assertEqual(self.count(), 0)
        self.assertEqual(self.sender.results["delivered"], 1)
        self.assertEqual(self.said, [])

    def test_one_at_a_time(self) -> None:
        """Messages go one after the other, in the order in which they were kept."""
        for text in "abc":
            self.put(text)
        self.assertEqual(self.texts(), ["a"])
        for _ in "abc":
            self.poster.take()
        self.assertEqual(self.texts(), ["a", "b", "c"])
        self.assertEqual(self.count(), 0)

    def test_of_another_process(self) -> None:
        """A message that another process has kept is found soon."""
        self.clock.advance(0)
        other = self.new_sender()
        self.put(sender=other)
        self.assertEqual(self.poster.sent, [])
        self.clock.advance(PERIOD)
        self.assertEqual(len(self.poster.sent), 1)

    def test_until_it_is_taken(self) -> None:
        """A message is sent again, with the same id; the log says it at the first failure only."""
        self.put()
        for pause in PAUSES[:2]:
            self.poster.refuse()
            self.assertFalse(self.sender.is_up)
            self.clock.pump([pause, PERIOD])
        self.poster.take()
        self.assertEqual(len({each.delivery for each in self.poster.sent}), 1)
        self.assertEqual([each.tries for each in self.poster.sent], [1, 2, 3])
        self.assertEqual(
            self.said,
            [
                "The webhook https://chat.example.org does not accept a message: it answers with "
                "status 500. Each one is sent up to 5 times, within three hours.",
                "The webhook https://chat.example.org accepts messages again.",
            ],
        )
        self.assertTrue(self.sender.is_up)
        self.assertEqual(self.sender.results["failed"], 2)

    def test_given_up(self) -> None:
        """After the last try the log has the message, and it is sent no more."""
        self.put()
        for pause in (*PAUSES, 0.0):
            self.poster.refuse()
            self.clock.pump([pause, PERIOD])
        self.assertEqual(len(self.poster.sent), MAX_TRIES)
        self.assertEqual(self.count(), 0)
        self.assertIn(
            'is not sent again: it answers with status 500. The message is {"id"', self.said[1]
        )
        self.assertEqual(self.sender.results["given-up"], 1)
        self.assertFalse(self.sender.is_up)

    def test_retry_after(self) -> None:
        """A receiver may ask to come later."""
        self.put()
        self.poster.refuse(retry_after=600)
        self.clock.pump([PAUSES[0], PERIOD])
        self.assertEqual(len(self.poster.sent), 1)
        self.clock.pump([600, PERIOD])
        self.assertEqual(len(self.poster.sent), 2)

    def test_stopped(self) -> None:
        """Stopping breaks off the request; the message goes out after the next start."""
        self.put()
        self.assertIsNone(self.successResultOf(cast(Any, self.stop())))
        self.assertEqual((self.said, self.sender.is_up), ([], True))
        self.clock.advance(PAUSES[0])
        self.sender = self.new_sender()
        self.sender.startService()
        self.clock.advance(0)
        self.assertEqual(len(self.poster.sent), 2)

    def stop(self) -> Deferred[Any]:
        """Stop, as the service above it does."""
        stopped = self.sender.stopService()
        return gatherResults([] if stopped is None else [stopped]).addCallback(lambda _: None)

    def test_stopped_idle(self) -> None:
        """A sender that waits stops at once, and does nothing any more."""
        self.clock.advance(0)
        self.successResultOf(self.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_database_away(self) -> None:
        """While the database is away nothing is sent; what was delivered is not sent again."""
        self.put("a")
        self.put("b")
        self.store.is_away = True
        self.poster.take()
        self.clock.pump([PERIOD] * 20)
        self.assertEqual(self.texts(), ["a"])
        self.assertEqual(
            self.said,
            [
                "No message is sent to the webhook for now: The database of the fleet cannot be "
                "used: the disk is full."
            ],
        )
        self.store.is_away = False
        self.clock.advance(PERIOD)
        self.assertEqual(self.texts(), ["a", "b"])
        self.poster.take()
        self.assertEqual(self.count(), 0)

    def test_dropped(self) -> None:
        """Messages that are too many are dropped, and the log says how many."""
        self.write(lambda store: add_messages(store, MAX_WAITING + 2, next_at=NOW + 3600))
        self.clock.advance(0)
        self.assertEqual(self.sender.results["dropped"], 2)
        self.assertEqual(self.count(), MAX_WAITING)
        self.assertTrue(self.said[0].startswith("2 messages for the webhook https://chat.example"))
