"""The boxes that wait for a release are known by what they say of themselves."""

from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.config.settings import AGENT
from opq_twisted.fleet.presence import Presence
from opq_twisted.http.resource import PlainResource
from opq_twisted.server.catalog.snapshot import Catalog
from opq_twisted.server.web.long_poll import NewestVersion
from tests.helpers.http_exchange import Connection


class PresenceTests(SynchronousTestCase):
    """A server at which boxes wait."""

    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        self.version = NewestVersion(Clock(), Catalog(folder))
        self.root = PlainResource()
        self.root.putChild(b"version", self.version)
        self.presence = Presence(lambda: self.version.long_pollers)

    def wait(self, agent: str) -> Connection:
        connection = Connection(self.root)
        connection.send(
            "GET", "/version", "Prefer: wait=300", 'If-None-Match: "none"', f"User-Agent: {agent}"
        )
        return connection

    def test_waiting(self) -> None:
        """Each box counts as often as it waits, until it goes away or gets an answer."""
        self.assertEqual(self.presence.waiting_now(), {})
        boxes = [self.wait(f"{AGENT}/0.2.0 (box {box}; release 1)") for box in (7, 7, 8, 0)]
        self.assertEqual(self.presence.waiting_now(), {7: 2, 8: 1, 0: 1})
        boxes[0].lose()
        boxes[2].advance(301)
        self.assertEqual(self.presence.waiting_now(), {7: 1, 0: 1})

    def test_others(self) -> None:
        """A client that is no agent, or does not say its number so, is not counted."""
        for agent in (
            "",
            "curl/8.5.0",
            f"{AGENT}/0.2.0",
            f"{AGENT}/0.2.0 (box x; release 1)",
            f"{AGENT}/0.2.0 (box -1; release 1)",
            f"{AGENT}/0.2.0 (box {10**15}; release 1)",
            f"{AGENT}/0.2.0 (box 7; release {'1' * 100})",
            f"{AGENT}/{'0' * 100} (box 7; release 1)",
            f"x {AGENT}/0.2.0 (box 7; release 1)",
            f"{AGENT}/0.2.0 (box \xb2; release 1)",
        ):
            self.wait(agent)
        self.assertEqual(self.presence.waiting_now(), {})
        self.assertEqual(len(self.version.long_pollers), 10)
