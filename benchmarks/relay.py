"""Relays connections to a local server, counts their bytes, and can be as slow as a home's link."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from attrs import frozen

_CHUNK = 16 << 10


@frozen
class Link:
    """The speed of a network."""

    #: Bytes a second of all responses together; without one it is as fast as the machine.
    rate: float | None = None
    #: Seconds that each request takes until it arrives: the time of a round trip.
    delay: float = 0.0


class Relay:
    """A link to a port of loopback, which all of its connections share."""

    def __init__(self, target: int, link: Link) -> None:
        self._target = target
        self._link = link
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        #: The time at which the link has sent what it was given so far.
        self._free_at = 0.0
        #: Of both directions, with the headers of HTTP and without those of TCP.
        self.bytes = 0

    @property
    def url(self) -> str:
        """The URL to which clients connect."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def run(self) -> None:
        """Accept connections until `close`."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                for end in (client, server):
                    # The two ends decide how long a short packet waits, not the relay.
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for each in ((client, server, self._ask), (server, client, self._answer)):
                    threading.Thread(target=_pump, args=each, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        # Only this wakes the thread that waits in accept().
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _ask(self, size: int) -> None:
        with self._lock:
            self.bytes += size
        time.sleep(self._link.delay)

    def _answer(self, size: int) -> None:
        with self._lock:
            self.bytes += size
            if self._link.rate is None:
                return
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + size / self._link.rate
            pause = self._free_at - now
        time.sleep(pause)


def _pump(source: socket.socket, target: socket.socket, wait: Callable[[int], None]) -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK):
            wait(len(data))
            target.sendall(data)
    # The thread of the other direction ends, too.
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@contextmanager
def relay(target: int, link: Link) -> Iterator[Relay]:
    """Relay connections to a port of loopback."""
    relay = Relay(target, link)
    thread = threading.Thread(target=relay.run, daemon=True)
    thread.start()
    try:
        yield relay
    finally:
        relay.close()
        thread.join()
