"""Offers the box's page on a port, and tries again while that port cannot be had."""

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

from opq_twisted.http.endpoints import RobustEndpoint
from opq_twisted.http.listener import make_endpoint, no_such_port, reason
from opq_twisted.http.site import BoundedSite

#: Seconds until the next attempt.
_RETRY_DELAY = 15.0

#: SD_LISTEN_FDS_START; and more sockets than any unit of a page has.
_FIRST_SOCKET = 3
_MOST_SOCKETS = 16

#: What parsers of endpoints raise for a description that nobody understands.
_MALFORMED = (IndexError, TypeError, ValueError)


class PagePort(Service):
    """
    Listens on a port, or does without it for a while.

    Any user of the box can take a port above 1023 while the agent is away. If the agent ended for
    want of it, the box would get no updates, and systemd would call the rescue.
    """

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, port: str, site: BoundedSite, inherited: Sequence[int] = ()
    ) -> None:
        """
        Prepare to listen.

        :param port: a TCP port number, or any endpoint description that Twisted knows.
        :param inherited: descriptors of sockets that listen already, as a socket unit of systemd
            hands them over; they take the place of a port number.
        :raises CannotStart: when the port is neither a number nor a description.
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
        """Listen, or begin to try."""
        super().startService()
        self._begin_to_listen()

    async def stopService(self) -> None:
        """Listen no more."""
        super().stopService()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        while self._ports:
            await maybeDeferred(self._ports.pop().stopListening)

    def _begin_to_listen(self) -> None:
        self._retry = None
        Deferred.fromCoroutine(self._listen_or_wait())

    async def _listen_or_wait(self) -> None:
        try:
            await self._listen()
        except Exception as error:
            self._do_without(error)

    async def _listen(self) -> None:
        inherited, self._inherited = self._inherited, ()
        endpoints = _adopted(inherited) if inherited else [make_endpoint(self._port)]
        for endpoint in endpoints:
            self._ports.append(await RobustEndpoint(self._clock, endpoint).listen(self._site))
        if self._complaint:
            self._log.info("The page is there: port {port} was free again", port=self._port)
        self._complaint = ""

    def _do_without(self, error: BaseException) -> None:
        """Say, once for each reason, that there is no page, and try again later."""
        if (complaint := reason(error)) != self._complaint:
            self._complaint = complaint
            self._log.warn(
                "There is no page, for port {port} cannot be had: {reason}. Updates go on without "
                "it. It is tried again every {delay:.0f} seconds.",
                port=self._port,
                reason=complaint,
                delay=_RETRY_DELAY,
            )
        if self.running:
            self._retry = self._clock.callLater(_RETRY_DELAY, self._begin_to_listen)


def inherited_sockets(environment: bytes, pid: int) -> Sequence[int]:
    """
    Tell which sockets systemd hands over (sd_listen_fds(3)).

    :param environment: the one that this process was started with, as /proc/PID/environ has it:
        Twisted's parsers of endpoints take that out of `os.environ`.
    :param pid: this process; another one's sockets are not its own.
    """
    lines = environment.split(b"\0")
    found = {name: value for name, _, value in (line.partition(b"=") for line in lines)}
    number = found.get(b"LISTEN_FDS", b"").decode("ascii", "replace")
    is_ours = found.get(b"LISTEN_PID") == str(pid).encode()
    if not is_ours or not number.isdecimal() or int(number) > _MOST_SOCKETS:
        return ()
    return range(_FIRST_SOCKET, _FIRST_SOCKET + int(number))


def _check(port: str) -> None:
    try:
        make_endpoint(port)
    except _MALFORMED as error:
        # It is no mistake to describe the socket of a unit that is not started yet.
        if not port.startswith("systemd:"):
            raise no_such_port(port, error) from None
    except Exception as error:
        # A file that it names, as a certificate, cannot be used: another one may take its place.
        PagePort._log.debug("{port} cannot be used yet: {error}", port=port, error=error)


def _adopted(descriptors: Sequence[int]) -> Iterator[IStreamServerEndpoint]:
    for descriptor in descriptors:
        with socket.socket(fileno=os.dup(descriptor)) as listening:
            family = listening.family
        yield AdoptedStreamServerEndpoint(reactor, descriptor, family)
