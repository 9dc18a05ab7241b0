"""Which message is sent next, and when one is sent again."""

from sqlalchemy import func, select, update

from opq_twisted.fleet.store.schema import notice
from opq_twisted.fleet.webhook.outbox import Event, Notice, put
from opq_twisted.fleet.webhook.schedule import (
    MAX_TRIES,
    MAX_WAITING,
    PAUSES,
    Message,
    SendResult,
    claim,
    drop,
    settle,
)
from tests.helpers.fleet_rows import NOW, add_messages
from tests.helpers.store_case import StoreCase, on_each_database


@on_each_database
class ScheduleTests(StoreCase):
    """Messages in the database."""

    def put(self, text: str = "It is held.", at: float = NOW) -> None:
        self.write(lambda store: put(store, at, Notice(Event.HELD, text)))

    def claim(self, at: float = NOW) -> Message | None:
        return self.write(lambda store: claim(store, at))

    def claimed(self, at: float = NOW) -> Message:
        message = self.claim(at)
        assert message is not None
        return message

    def settle(self, result: SendResult, at: float = NOW) -> None:
        self.write(lambda store: settle(store, result, at))

    def drop(self, at: float = NOW) -> int:
        return self.write(lambda store: drop(store, at))

    def count(self) -> int:
        query = select(func.count()).select_from(notice)
        return self.read(lambda store: store.execute(query).scalar_one())

    def test_nothing(self) -> None:
        """Without messages, nothing is due and nothing is dropped."""
        self.assertIsNone(self.claim())
        self.assertEqual(self.drop(), 0)

    def test_claimed_once(self) -> None:
        """A message that one process sends is not sent by another one at the same time."""
        self.put()
        self.claimed()
        self.assertIsNone(self.claim())
        self.assertIsNone(self.claim(NOW + PAUSES[0] - 1))

    def test_claimed_at_once(self) -> None:
        """Two processes that look in the same moment get different messages."""
        if not self.on_postgresql:
            return
        self.put("first")
        self.put("second")
        with self.database.engine.begin() as one, self.database.engine.begin() as other:
            found = claim(one, NOW), claim(other, NOW)
        self.assertEqual(len({each.row for each in found if each is not None}), 2)

    def test_pauses(self) -> None:
        """A message that fails is sent again after ever longer pauses, and then deleted."""
        self.put()
        at, begun = NOW, []
        for number in range(1, MAX_TRIES + 1):
            message = self.claimed(at)
            self.assertEqual(message.tries, number)
            self.settle(SendResult(message, is_delivered=False), at)
            begun.append(at)
            if number < MAX_TRIES:
                self.assertIsNone(self.claim(at + PAUSES[number - 1] - 1))
                at += PAUSES[number - 1]
        self.assertEqual([each - NOW for each in begun], [0, 60, 360, 2160, 9360])
        self.assertEqual(self.count(), 0)

    def test_delivered(self) -> None:
        """A message that is delivered is deleted, and no other one."""
        self.put("first")
        self.put("second")
        first = self.claimed()
        self.assertIn("first", first.body)
        self.settle(SendResult(first, is_delivered=True))
        self.assertIn("second", self.claimed().body)
        self.assertEqual(self.count(), 1)

    def test_number_used_again(self) -> None:
        """The end of a message that was deleted does not delete another one with its number."""
        self.put("first")
        first = self.claimed()
        self.settle(SendResult(first, is_delivered=True))
        self.put("second")
        renumber = update(notice).values(id=first.row)
        self.write(lambda store: store.execute(renumber))
        self.settle(SendResult(first, is_delivered=True))
        self.assertEqual(self.count(), 1)

    def test_retry_after(self) -> None:
        """A receiver can put off a message, for two hours at most; never sooner than the pause."""
        for wanted, pause in ((5.0, 60.0), (900.0, 900.0), (1e9, 7200.0)):
            self.put()
            message = self.claimed()
            self.settle(SendResult(message, is_delivered=False, retry_after=wanted))
            self.assertIsNone(self.claim(NOW + pause - 1))
            self.settle(SendResult(self.claimed(NOW + pause), is_delivered=True))

    def test_new_before_old(self) -> None:
        """A new message does not wait behind those that failed."""
        self.put("old")
        self.claimed()
        later = NOW + PAUSES[0]
        self.put("new", later)
        self.assertIn("new", self.claimed(later).body)

    def test_clock_was_ahead(self) -> None:
        """A message is not put off for years by a clock that was wrong."""
        self.put(at=NOW + 1e9)
        self.claimed()

    def test_too_many(self) -> None:
        """Of too many messages the oldest ones are dropped."""
        self.write(lambda store: add_messages(store, MAX_WAITING + 3))
        self.assertEqual(self.drop(), 3)
        self.assertEqual(self.count(), MAX_WAITING)
        self.assertIn("message 3", self.claimed().body)
        self.assertEqual(self.drop(), 0)

    def test_too_old(self) -> None:
        """A message that nobody needs any more is dropped."""
        self.put(at=NOW - 4 * 86400)
        self.put(at=NOW - 2 * 86400)
        self.assertEqual(self.drop(), 1)

    def test_killed_in_the_last_try(self) -> None:
        """A message whose last try has no end is dropped after the pause."""
        self.put()
        self.write(lambda store: store.execute(update(notice).values(tries=MAX_TRIES - 1)))
        self.assertTrue(self.claimed().is_last_try)
        self.assertEqual(self.drop(NOW + PAUSES[-1] - 1), 0)
        self.assertEqual(self.drop(NOW + PAUSES[-1]), 1)
