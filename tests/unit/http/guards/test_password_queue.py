"""The queue of password checks serves clients with the fewest failures first."""

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.http.guards.password_queue import PasswordCheckQueue, TooManyAttempts


class PasswordCheckQueueTests(SynchronousTestCase):
    """The order of the waiting checks."""

    def setUp(self) -> None:
        self.queue = PasswordCheckQueue()

    def acquire(self, address: str, network: str | None = None) -> Deferred[None]:
        return Deferred.fromCoroutine(self.queue.acquire((address, network or address)))

    def release(self, address: str, network: str | None = None, *, failed: bool = False) -> None:
        self.queue.release((address, network or address), failed=failed)

    def fail_check(self, address: str, network: str | None = None, *, times: int = 1) -> None:
        for _ in range(times):
            self.successResultOf(self.acquire(address, network))
            self.release(address, network, failed=True)

    def test_fewest_failures(self) -> None:
        """The client with the fewest failures is next; among equals, the latest."""
        self.fail_check("a", times=2)
        self.fail_check("b", times=1)
        self.successResultOf(self.acquire("a"))
        waiting = {client: self.acquire(client) for client in ("a", "b", "d", "c")}
        for client in ("c", "d", "b", "a"):
            self.assertNoResult(waiting[client])
            self.release("x")
            self.successResultOf(waiting[client])

    def test_address_families(self) -> None:
        """Clients of IPv4 and of IPv6 are equals."""
        self.successResultOf(self.acquire("x"))
        waiting = [
            self.acquire("192.0.2.1"),
            self.acquire("2001:db8::1", "2001:db8::/64"),
            self.acquire("192.0.2.2"),
        ]
        for each in reversed(waiting):
            self.assertNoResult(each)
            self.release("x")
            self.successResultOf(each)

    def test_success(self) -> None:
        """A correct password clears the failures of a client."""
        self.fail_check("a", times=3)
        self.successResultOf(self.acquire("a"))
        self.release("a")
        self.fail_check("b", times=1)
        self.successResultOf(self.acquire("x"))
        second, first = self.acquire("b"), self.acquire("a")
        self.release("x")
        self.successResultOf(first)
        self.assertNoResult(second)

    def test_same_network(self) -> None:
        """A guesser in the owner's network delays neither the owner nor other networks."""
        network = "2001:db8::/64"
        self.fail_check("2001:db8::bad", network, times=3)
        self.successResultOf(self.acquire("x"))
        guesses = [self.acquire("2001:db8::bad", network) for _ in range(2)]
        owner = self.acquire("2001:db8::1", network)
        from_elsewhere = self.acquire("192.0.2.1")
        newest = self.acquire("2001:db8::2", network)
        for waiting in (from_elsewhere, newest, owner, *reversed(guesses)):
            self.assertNoResult(waiting)
            self.release("x")
            self.successResultOf(waiting)

    def test_full(self) -> None:
        """If the queue is full, a client with fewer failures replaces the one with the most."""
        for number in range(64):
            self.fail_check(f"{number}", times=1 + number % 3)
        self.successResultOf(self.acquire("x"))
        waiting = [self.acquire(f"{number}") for number in range(64)]
        self.assertNoResult(waiting[2])
        newcomer = self.acquire("new")
        self.failureResultOf(waiting[2], TooManyAttempts)
        self.assertNoResult(newcomer)
        # It was turned away, which counts.
        self.failureResultOf(self.acquire("2"), TooManyAttempts)

    def test_crowd(self) -> None:
        """A crowd that fills the queue again and again does not keep the owner out."""
        self.successResultOf(self.acquire("x"))
        crowd = [f"{number}" for number in range(100)]
        for _ in range(3):
            for each in crowd:
                self.acquire(each).addErrback(lambda failure: failure.trap(TooManyAttempts))
        owner = self.acquire("owner")
        for each in crowd:
            self.acquire(each).addErrback(lambda failure: failure.trap(TooManyAttempts))
        self.assertNoResult(owner)
        self.release("x", failed=True)
        self.successResultOf(owner)

    def test_impatient(self) -> None:
        """A third waiting attempt counts as a failure before any attempt is checked."""
        self.successResultOf(self.acquire("x"))
        flooding = [self.acquire("a") for _ in range(3)]
        self.failureResultOf(flooding[2], TooManyAttempts)
        owner = self.acquire("b")
        self.release("x", failed=True)
        self.successResultOf(owner)
        self.assertNoResult(flooding[0])
        self.assertNoResult(flooding[1])

    def test_bounded(self) -> None:
        """A client with ever new addresses does not fill the memory."""
        for number in range(1100):
            self.fail_check(f"{number}")
        self.assertEqual(len(self.queue._failures), 1024)
