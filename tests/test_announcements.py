"""How a box waits for another release: one request after the other, and none too many."""

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.announcements import Announcements
from opq_twisted.errors import ServerFailed
from tests.fakes import Network, Peer

OLD, NEW = 'ETag: "1"', 'ETag: "2"'

#: What a server says that has waited in vain.
IN_VAIN = ("304 Not Modified", OLD, "Preference-Applied: wait=300")


class AnnouncementsTests(SynchronousTestCase):
    """A real client, whose server is the test."""

    def setUp(self) -> None:
        self.network = Network()
        self.clock = self.network.clock
        self.announcements = Announcements(self.clock, self.network.server)

    def wait(self, seconds: float = 1000.0) -> Deferred[bool]:
        return Deferred.fromCoroutine(self.announcements.wait(seconds))

    def accept(self, *lines: str) -> Peer:
        """Accept the one request that is made, which has these lines."""
        self.assertEqual(len(self.clock.tcpClients), 1)
        peer = self.network.accept()
        for line in lines:
            self.assertIn(line, peer.request.split("\r\n"))
        return peer

    def know(self) -> None:
        """Let the box learn the tag."""
        peer = self.accept("Prefer: wait=300")
        self.assertNotIn("If-None-Match", peer.request)
        peer.answer("200 OK", OLD, "Content-Length: 1", body=b"1")

    def assert_asks_no_more(self, waiting: Deferred[bool]) -> None:
        self.assertFalse(self.successResultOf(waiting))
        self.assertEqual(self.clock.tcpClients, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_another(self) -> None:
        """It learns the tag, waits as long as it may, and tells when there is another."""
        waiting = self.wait()
        self.know()
        for wait in (300, 300, 300):
            peer = self.accept('If-None-Match: "1"', f"Prefer: wait={wait}")
            self.clock.advance(wait)
            peer.answer(*IN_VAIN)
        peer = self.accept('If-None-Match: "1"', "Prefer: wait=100")
        self.clock.advance(99)
        self.assertNoResult(waiting)
        peer.answer("200 OK", NEW, "Preference-Applied: wait=100", "Content-Length: 1")
        self.assertTrue(self.successResultOf(waiting))
        self.assertEqual(self.clock.tcpClients, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_remembered(self) -> None:
        """What comes while nobody waits is told of as soon as somebody does."""
        waiting = self.wait(50)
        self.accept().answer("200 OK", OLD, "Content-Length: 1", body=b"1")
        self.accept('If-None-Match: "1"')
        self.clock.advance(50)
        self.failureResultOf(waiting, ServerFailed)
        waiting = self.wait()
        self.accept('If-None-Match: "1"').answer("200 OK", NEW, "Content-Length: 1", body=b"2")
        self.assertTrue(self.successResultOf(waiting))
        waiting = self.wait()
        self.accept('If-None-Match: "2"').answer("200 OK", OLD, "Content-Length: 1", body=b"2")
        self.assertTrue(self.successResultOf(waiting))

    def test_time_is_over(self) -> None:
        """It ends when its time is over, whatever the server does."""
        waiting = self.wait(10.5)
        self.accept("Prefer: wait=10").answer("200 OK", OLD, "Content-Length: 1", body=b"1")
        peer = self.accept("Prefer: wait=10")
        self.clock.advance(10)
        peer.answer(*IN_VAIN)
        self.assert_asks_no_more(waiting)
        waiting = self.wait(10.5)
        peer = self.accept("Prefer: wait=10")
        self.clock.advance(10.5)
        self.failureResultOf(waiting, ServerFailed)
        self.assertFalse(peer.open)
        for seconds in (0.9, 0.0, -1.0):
            self.assert_asks_no_more(self.wait(seconds))

    def test_at_once(self) -> None:
        """A server that says at once that nothing has changed is asked no more."""
        waiting = self.wait()
        self.know()
        peer = self.accept()
        self.clock.advance(9)
        peer.answer(*IN_VAIN)
        self.assert_asks_no_more(waiting)

    def test_ignores_conditions(self) -> None:
        """Nor is one that does not care what is known."""
        waiting = self.wait()
        self.know()
        self.accept().answer("200 OK", OLD, "Content-Length: 1", body=b"1")
        self.assert_asks_no_more(waiting)

    def test_shorter_waits(self) -> None:
        """A server that does not let boxes wait for as long as they would is good enough."""
        waiting = self.wait()
        self.know()
        for _ in range(10):
            peer = self.accept("Prefer: wait=300")
            self.clock.advance(60)
            peer.answer(*IN_VAIN)
        self.accept("Prefer: wait=300")
        self.assertNoResult(waiting)

    def test_refused(self) -> None:
        """Whatever else it answers, it is not asked again."""
        for status, *headers in (
            ("404 Not Found", "Content-Length: 0"),
            ("503 Service Unavailable", "Retry-After: 5", "Content-Length: 0"),
            ("304 Not Modified", OLD),
            ("200 OK", "Content-Length: 1"),
        ):
            for known in (False, True):
                with self.subTest(status=status, known=known):
                    self.announcements = Announcements(self.clock, self.network.server)
                    waiting = self.wait()
                    if known:
                        self.know()
                    self.accept().answer(status, *headers)
                    self.failureResultOf(waiting, ServerFailed)
                    self.assertEqual(self.clock.tcpClients, [])
                    self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_broken(self) -> None:
        """A connection that breaks is not made again."""
        waiting = self.wait()
        self.know()
        self.accept().reset()
        self.failureResultOf(waiting, ServerFailed)
        self.assertEqual(self.clock.tcpClients, [])

    def test_cancelled(self) -> None:
        """When it is cancelled the connection is closed."""
        waiting = self.wait()
        self.know()
        peer = self.accept()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertFalse(peer.open)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_timer_near(self) -> None:
        """While it waits one timer is all there is, and far away."""
        self.wait()
        self.know()
        self.accept()
        [timer] = self.clock.getDelayedCalls()
        self.assertEqual(timer.getTime() - self.clock.seconds(), 360)
