"""Streams of events for groups of clients; `tests.unit.box.web.test_events` has the rest."""

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import SERVICE_UNAVAILABLE

from opq_twisted.http.event_streams import EventStreams
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import FunctionResource
from tests.helpers.http_exchange import Connection, ReactorClock


class EventStreamsTests(SynchronousTestCase):
    """Two clients, each in a group of its own."""

    def setUp(self) -> None:
        self.streams = EventStreams(ReactorClock(), Reply.sentence(SERVICE_UNAVAILABLE, "No."))
        self.requests: list[BoundedRequest] = []
        self.one, self.other = self.open("one"), self.open("other")

    def open(self, group: str) -> Connection:
        def start(request: BoundedRequest) -> Reply | int:
            self.requests.append(request)
            return self.streams.open(request, None, lambda: b"first", group)

        resource = FunctionResource(start)  # type: ignore[arg-type]
        resource.isLeaf = True
        connection = Connection(resource)
        connection.send("GET", "/")
        self.assertTrue(connection.transport.value().endswith(b"first"))
        connection.transport.clear()
        return connection

    def test_groups(self) -> None:
        """An event for a group reaches its clients only, and one for all reaches all."""
        self.streams.send(b"news", "one")
        self.streams.send(b"all")
        self.assertEqual(self.one.transport.value(), b"newsall")
        self.assertEqual(self.other.transport.value(), b"all")

    def test_close(self) -> None:
        """All streams can be ended at once."""
        self.assertEqual(len(self.streams), 2)
        self.streams.close()
        self.assertEqual(len(self.streams), 0)
        for connection in (self.one, self.other):
            self.assertTrue(connection.transport.disconnecting)

    def test_gone(self) -> None:
        """No stream begins for a client that has gone away in the meantime."""
        self.one.lose()
        self.streams.open(self.requests[0], None, lambda: b"first")
        self.assertEqual(len(self.streams), 1)
