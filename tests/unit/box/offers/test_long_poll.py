"""A box waits for another version, one request after the other, and never too many."""

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.offers.long_poll import LongPoll
from opq_twisted.common.errors import NoWaiting, ServerFailed
from tests.helpers.memory_network import Network, Peer

OLD, NEW = 'ETag: "1"', 'ETag: "2"'

#: What a server says that has waited in vain.
IN_VAIN = ("304 Not Modified", OLD, "Preference-Applied: wait=300")


class LongPollTests(SynchronousTestCase):
    """A real client, whose server is the test."""

    def setUp(self) -> None:
        self.network = Network()
        self.clock = self.network.clock
        self.chance = 0.5
        self.announcements = self.another()

    def another(self) -> LongPoll:
        """Make the waiter of the next run of the agent."""
        return LongPoll(self.clock, self.network.server, 30.0, lambda: self.chance)

    def wait(self, seconds: float = 1000.0) -> Deferred[bool]:
        return Deferred.fromCoroutine(self.announcements.wait(seconds))

    def accept(self, *lines: str) -> Peer:
        """Accept the only request, which must have these lines."""
        self.assertEqual(len(self.clock.tcpClients), 1)
        peer = self.network.accept()
        for line in lines:
            self.assertIn(line, peer.request.split("\r\n"))
        return peer

    def know(self) -> None:
        """Let the box learn the tag."""
        waiting = self.wait()
        peer = self.accept("Prefer: wait=300")
        self.assertNotIn("If-None-Match", peer.request)
        peer.answer("200 OK", OLD, "Content-Length: 1", body=b"1")
        # Nobody knows whether the box has looked since that became the tag.
        self.assertTrue(self.successResultOf(waiting))

    def wait_knowing(self, seconds: float = 1000.0) -> Deferred[bool]:
        """Let the box learn the tag, and wait for another one."""
        self.know()
        return self.wait(seconds)

    def assert_asks_no_more(self, waiting: Deferred[bool], announced: bool = False) -> None:
        self.assertIs(self.successResultOf(waiting), announced)
        self.assertEqual(self.clock.tcpClients, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_another(self) -> None:
        """The box learns the tag, waits, and learns of another tag."""
        waiting = self.wait_knowing()
        for wait in (300, 300, 300):
            peer = self.accept('If-None-Match: "1"', f"Prefer: wait={wait}")
            self.clock.advance(wait)
            peer.answer(*IN_VAIN)
        peer = self.accept('If-None-Match: "1"', "Prefer: wait=100")
        self.clock.advance(99)
        self.assertNoResult(waiting)
        peer.answer("200 OK", NEW, "Preference-Applied: wait=100", "Content-Length: 1")
        self.assert_asks_no_more(waiting, announced=True)

    def test_first_version(self) -> None:
        """A server without a version may let the box wait for the first."""
        waiting = self.wait()
        none = ("404 Not Found", 'ETag: "none"', "Content-Length: 0")
        self.accept().answer(*none)
        self.assertTrue(self.successResultOf(waiting))
        waiting = self.wait()
        self.clock.advance(100)
        self.accept('If-None-Match: "none"').answer(*none, "Preference-Applied: wait=300")
        self.accept('If-None-Match: "none"').answer("200 OK", NEW, "Content-Length: 1", body=b"2")
        self.assertTrue(self.successResultOf(waiting))

    def test_remembered(self) -> None:
        """A change between two waits ends the second one at once."""
        waiting = self.wait_knowing(50)
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
        """The wait ends when its time is over, whatever the server does."""
        waiting = self.wait_knowing(10.5)
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
        """A server that does not wait is not asked again."""
        waiting = self.wait_knowing()
        peer = self.accept()
        self.clock.advance(9)
        peer.answer(*IN_VAIN)
        self.assert_asks_no_more(waiting)

    def test_ignores_conditions(self) -> None:
        """A server that ignores the known tag is not asked again."""
        waiting = self.wait_knowing()
        self.accept().answer("200 OK", OLD, "Content-Length: 1", body=b"1")
        self.assert_asks_no_more(waiting)

    def test_shorter_waits(self) -> None:
        """A server may wait for a shorter time than requested."""
        waiting = self.wait_knowing()
        for _ in range(10):
            peer = self.accept("Prefer: wait=300")
            self.clock.advance(60)
            peer.answer(*IN_VAIN)
        self.accept("Prefer: wait=300")
        self.assertNoResult(waiting)

    def test_refused(self) -> None:
        """After any other response, the server is not asked again."""
        for status, *headers in (
            ("404 Not Found", "Content-Length: 0"),
            ("412 Precondition Failed", "Content-Length: 0"),
            ("304 Not Modified", OLD),
            ("200 OK", "Content-Length: 1"),
        ):
            for known in (False, True):
                with self.subTest(status=status, known=known):
                    self.announcements = self.another()
                    if known:
                        self.know()
                    waiting = self.wait()
                    self.accept().answer(status, *headers)
                    self.failureResultOf(waiting, NoWaiting)
                    self.assertEqual(self.clock.tcpClients, [])
                    self.assertEqual(self.clock.getDelayedCalls(), [])

    def turn_away(self, peer: Peer, *answer: str) -> None:
        """Let a request fail, with a response or a broken connection."""
        if answer:
            peer.answer(*answer)
        else:
            peer.reset()
        self.assertEqual(self.clock.tcpClients, [])

    def assert_asks_after(self, seconds: float) -> Peer:
        """Assert that the next request is made after exactly this number of seconds."""
        self.clock.advance(seconds - 0.5)
        self.assertEqual(self.clock.tcpClients, [])
        self.clock.advance(0.5)
        return self.accept('If-None-Match: "1"')

    def test_broken(self) -> None:
        """After a broken connection or a busy server, the delays grow."""
        for answer in (
            (),
            ("429 Too Many Requests", "Content-Length: 0"),
            ("302 Found", "Location: /login", "Content-Length: 0"),
            ("502 Bad Gateway", "Content-Length: 0"),
            ("503 Service Unavailable", "Retry-After: 5", "Content-Length: 0"),
        ):
            with self.subTest(answer=answer):
                self.announcements = self.another()
                waiting = self.wait_knowing(10_000)
                peer = self.accept('If-None-Match: "1"')
                for pause in (5, 10, 20, 40, 80, 160, 300, 300):
                    self.turn_away(peer, *answer)
                    peer = self.assert_asks_after(pause + 15)
                # What goes well ends that.
                self.clock.advance(300)
                peer.answer(*IN_VAIN)
                self.turn_away(self.accept('If-None-Match: "1"'))
                peer = self.assert_asks_after(20)
                peer.answer("200 OK", NEW, "Content-Length: 1", body=b"2")
                self.assertTrue(self.successResultOf(waiting))

    def test_back_spread_out(self) -> None:
        """The boxes of a fleet reconnect at different times."""
        for chance, pause in ((0.0, 5), (0.25, 12.5), (0.75, 27.5)):
            with self.subTest(chance=chance):
                self.chance = chance
                self.announcements = self.another()
                waiting = self.wait_knowing()
                self.turn_away(self.accept())
                self.assert_asks_after(pause)
                waiting.cancel()
                self.failureResultOf(waiting, CancelledError)

    def test_retry_after(self) -> None:
        """`Retry-After` of a busy server is respected."""
        waiting = self.wait_knowing()
        busy = ("503 Service Unavailable", "Retry-After: 200", "Content-Length: 0")
        self.turn_away(self.accept(), *busy)
        self.turn_away(self.assert_asks_after(200), *busy[:1], "Retry-After: 900", busy[2])
        # There is no time left for that.
        self.assertEqual(self.failureResultOf(waiting, ServerFailed).value.retry_after, 900)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_gone(self) -> None:
        """The wait fails if the server stays away until its time is over."""
        waiting = self.wait_knowing(100)
        peer = self.accept()
        for pause in (5, 10):
            peer.reset()
            self.clock.advance(pause + 15)
            peer = self.accept()
        self.clock.advance(25)
        peer.reset()
        self.failureResultOf(waiting, ServerFailed)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled(self) -> None:
        """Cancelling closes the connection."""
        waiting = self.wait_knowing()
        peer = self.accept()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertFalse(peer.open)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_timer_near(self) -> None:
        """While the box waits, there is only one timer, far in the future."""
        self.know()
        self.wait()
        self.accept()
        [timer] = self.clock.getDelayedCalls()
        self.assertEqual(timer.getTime() - self.clock.seconds(), 360)
