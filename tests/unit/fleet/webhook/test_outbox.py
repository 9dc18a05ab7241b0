"""What is kept for the webhook."""

import json
from functools import partial

from sqlalchemy import select

from opq_twisted.fleet.store.schema import notice
from opq_twisted.fleet.webhook.outbox import Event, Notice, discard, put
from tests.helpers.fleet_rows import NEW, NOW
from tests.helpers.store_case import StoreCase, on_each_database


@on_each_database
class OutboxTests(StoreCase):
    """The messages in the database."""

    def bodies(self) -> list[str]:
        return list(self.read(lambda store: store.execute(select(notice.c.body)).scalars().all()))

    def test_put(self) -> None:
        """A message has a sentence and the numbers, and an id of its own."""
        for _ in range(2):
            new_notice = Notice(Event.HELD, "Held.", "stable", NEW, {"bad": 3})
            self.write(partial(put, now=NOW, new_notice=new_notice))
        first, second = (json.loads(body) for body in self.bodies())
        self.assertNotEqual(first.pop("id"), second.pop("id"))
        self.assertEqual(
            first,
            {
                "event": "held",
                "at": NOW,
                "channel": "stable",
                "release": NEW,
                "text": "Held.",
                "numbers": {"bad": 3},
            },
        )
        self.assertEqual(first, second)

    def test_discard(self) -> None:
        """Without a webhook nothing is kept."""
        self.write(lambda store: discard(store, NOW, Notice(Event.DONE, "Done.")))
        self.assertEqual(self.bodies(), [])
