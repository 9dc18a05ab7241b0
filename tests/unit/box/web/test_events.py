"""The status as server-sent events: order, rate, limits, and slow clients."""

import json
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import ITCPTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from zope.interface import alsoProvides

from opq_twisted.box.state.status import Status, StatusBoard
from opq_twisted.box.web.events import Events
from opq_twisted.http.event_streams import MAX_STREAMS
from opq_twisted.http.site import BoundedSite
from tests.helpers.http_exchange import Connection, ReactorClock


class EventsTests(SynchronousTestCase):
    """Streams over connections in memory."""

    def setUp(self) -> None:
        self.clock = ReactorClock()
        self.board = StatusBoard(Status(message="first"))
        root = Resource()
        root.putChild(b"events", Events(self.clock, self.board, self.encode))
        self.site = BoundedSite(self.clock, root)

    def encode(self, status: Status) -> bytes:
        return json.dumps(status.message).encode()

    def follow(self, method: str = "GET", host: str = "192.0.2.1") -> Connection:
        address = IPv4Address("TCP", host, 50_000)
        connection = Connection(Resource(), self.site, address)
        alsoProvides(connection.transport, ITCPTransport)
        connection.send(method, "/events")
        return connection

    def heard(self, connection: Connection) -> list[Any]:
        """Return the messages received since the last call."""
        data = connection.transport.value().rpartition(b"\r\n\r\n")[2].decode()
        connection.transport.clear()
        return [
            json.loads(event.removeprefix("data: "))
            for event in data.split("\n\n")
            if event.startswith("data: ")
        ]

    def test_first(self) -> None:
        """The current status comes first, and no cache stores the stream."""
        connection = self.follow()
        head = connection.transport.value().partition(b"\r\n\r\n")[0]
        self.assertTrue(head.startswith(b"HTTP/1.1 200 OK\r\n"))
        for line in (
            b"Content-Type: text/event-stream",
            b"Cache-Control: no-store",
            b"Connection: close",
        ):
            self.assertIn(line, head)
        self.assertEqual(self.heard(connection), ["first"])

    def test_changes(self) -> None:
        """Changes are sent at once, but at most four a second; the last one is not lost."""
        connection = self.follow()
        self.heard(connection)
        self.board.publish(message="second")
        self.clock.turn()
        self.assertEqual(self.heard(connection), ["second"])
        for number in range(10):
            self.board.publish(message=f"{number}")
            self.clock.advance(0.02)
        self.assertEqual(self.heard(connection), [])
        self.clock.advance(0.05)
        self.assertEqual(self.heard(connection), ["9"])
        self.clock.advance(10)
        self.assertEqual(self.heard(connection), [])

    def test_silence(self) -> None:
        """A stream sends a heartbeat every 15 seconds; without streams the box has no timer."""
        connection = self.follow()
        self.heard(connection)
        for _ in range(3):
            self.clock.advance(15)
            self.assertEqual(connection.transport.value(), b": \nevent: alive\ndata: \n\n")
            connection.transport.clear()
        connection.lose()
        self.board.publish(message="second")
        self.site.sweep()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_does_not_read(self) -> None:
        """A client that reads nothing misses all events but the last, and is cut after a minute."""
        connection = self.follow()
        self.heard(connection)
        assert connection.transport.producer is not None
        connection.transport.producer.pauseProducing()
        for number in range(10):
            self.board.publish(message=f"{number}")
            self.clock.advance(0.25)
        self.assertEqual(self.heard(connection), [])
        connection.transport.producer.resumeProducing()
        self.assertEqual(self.heard(connection), ["9"])
        self.clock.advance(100)
        self.site.sweep()
        self.assertFalse(connection.transport.disconnecting)
        connection.transport.producer.pauseProducing()
        self.clock.advance(61)
        self.site.sweep()
        self.assertTrue(connection.transport.disconnected)

    def test_too_many(self) -> None:
        """The number of streams is limited, and a closed stream makes room."""
        connections = [self.follow(host=f"192.0.2.{number}") for number in range(MAX_STREAMS)]
        answer = self.follow().response()
        self.assertEqual((answer.status, answer.headers["Retry-After"]), (503, "30"))
        connections[0].lose()
        self.assertEqual(self.heard(self.follow()), ["first"])

    def test_each(self) -> None:
        """One client may have a quarter of the streams."""
        connections = [self.follow() for _ in range(MAX_STREAMS // 4)]
        self.assertEqual(self.follow().response().status, 503)
        self.assertEqual(self.heard(self.follow(host="192.0.2.2")), ["first"])
        connections[0].lose()
        self.assertEqual(self.heard(self.follow()), ["first"])

    def test_head(self) -> None:
        """HEAD starts no stream."""
        connection = self.follow("HEAD")
        self.assertEqual(connection.response("HEAD").body, b"")
        self.board.publish(message="second")
        self.clock.advance(1)
        self.assertNotIn(b"second", connection.transport.value())
