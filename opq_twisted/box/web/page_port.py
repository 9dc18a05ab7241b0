"""Serves the box's page on a port, and retries while the port cannot be used."""

import os
import socket
from collections.abc import Iterator, Sequence

from twisted.application.service import Service
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.interfaces import (
    IDelayedCall,
    IListeningPort,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from opq_twisted.http.endpoints import RobustEndpoint
from opq_twisted.http.port import make_endpoint, no_such_port, reason, url_of
from opq_twisted.http.site import BoundedSite

#: Seconds until the next attempt to listen.
_RETRY_DELAY = 15.0

#: SD_LISTEN_FDS_START of sd_listen_fds(3), and a bound for the number of sockets.
_FIRST_SOCKET = 3
_MAX_SOCKETS = 16

#: The errors that parsers of endpoint descriptions raise for a malformed one.
_MALFORMED = (IndexError, TypeError, ValueError)


class PagePort(Service):
    """
    Listens on a port; if the port is taken, the agent runs without its page and retries.

    Any user of the box can take a port above 1023 while the agent does not run. If the agent exited
    because of that, the box would get no updates, and systemd would start the rescue script.
    """

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, port: str, site: BoundedSite, inherited: Sequence[int] = ()
    ) -> None:
        """
        :param port: a TCP port number, or any endpoint description that Twisted knows.
        :param inherited: descriptors of listening sockets from a socket unit of systemd; they are
            used instead of a port number.
        :raises CannotStart: if the port is neither a number nor a valid description.
        """
        self._clock = clock
        self._port = port
        self._site = site
        self._inherited = inherited if port.isdecimal() else ()
        self._ports: list[IListeningPort] = []
        self._retry: IDelayedCall | None = None
        self._complaint = ""
        _check(port)

    def startService(self) -> None:
        """Listen, or start to retry."""
        super().startService()
        self._start_listening()

    async def stopService(self) -> None:
        """Stop listening."""
        super().stopService()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        while self._ports:
            await maybeDeferred(self._ports.pop().stopListening)

    def _start_listening(self) -> None:
        self._retry = None
        Deferred.fromCoroutine(self._listen()).addErrback(self._retry_later)

    async def _listen(self) -> None:
        inherited, self._inherited = self._inherited, ()
        endpoints = _adopted(inherited) if inherited else [make_endpoint(self._port)]
        for endpoint in endpoints:
            port = await RobustEndpoint(self._clock, endpoint).listen(self._site)
            self._ports.append(port)
            self._log.info("The page is at {url}.", url=url_of(port, self._port))
        self._complaint = ""

    def _retry_later(self, failure: Failure) -> None:
        """Log each reason once, and retry later."""
        assert failure.value is not None
        if (complaint := reason(failure.value)) != self._complaint:
            self._complaint = complaint
            self._log.warn(
                "There is no page, because port {port} cannot be used: {reason}. Updates go on "
                "without it. The agent tries again every {delay:.0f} seconds.",
                port=self._port,
                reason=complaint,
                delay=_RETRY_DELAY,
            )
        if self.running:
            self._retry = self._clock.callLater(_RETRY_DELAY, self._start_listening)


def inherited_sockets(environment: bytes, pid: int) -> Sequence[int]:
    """
    Return the descriptors of the sockets that systemd passed to this process (sd_listen_fds(3)).

    :param environment: the content of /proc/PID/environ, because Twisted's parsers of endpoints
        remove these variables from `os.environ`.
    :param pid: the id of this process; the variables may be meant for another one.
    """
    lines = environment.split(b"\0")
    found = {name: value for name, _, value in (line.partition(b"=") for line in lines)}
    number = found.get(b"LISTEN_FDS", b"").decode("ascii", "replace")
    is_ours = found.get(b"LISTEN_PID") == str(pid).encode()
    if not is_ours or not number.isdecimal() or int(number) > _MAX_SOCKETS:
        return ()
    return range(_FIRST_SOCKET, _FIRST_SOCKET + int(number))


def _check(port: str) -> None:
    try:
        make_endpoint(port)
    except _MALFORMED as error:
        # The socket of a unit that has not been started yet is no mistake.
        if not port.startswith("systemd:"):
            raise no_such_port(port, error) from None
    except Exception as error:
        # A file in the description, such as a certificate, may be usable later.
        PagePort._log.debug("{port} cannot be used yet: {error}", port=port, error=error)


def _adopted(descriptors: Sequence[int]) -> Iterator[IStreamServerEndpoint]:
    for descriptor in descriptors:
        with socket.socket(fileno=os.dup(descriptor)) as listening:
            family = listening.family
        yield AdoptedStreamServerEndpoint(reactor, descriptor, family)
