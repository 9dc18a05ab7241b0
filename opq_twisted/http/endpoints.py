"""Server endpoints that cover all addresses, and survive a busy machine and a killed server."""

import errno
import os
import re
import socket
import stat
from contextlib import suppress
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, execute
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.internet.tcp import Port
from twisted.logger import Logger
from zope.interface import implementer

from opq_twisted.common.log import RepeatedLine

#: Seconds without accepting when the machine has no file descriptor, or no memory, to spare.
_PAUSE = 1.0

#: Connections that are accepted in one turn of the reactor. The others stay in the kernel's queue,
#: where they cost little, until the requests of these have been read.
MAX_ACCEPTED = 100

#: Connections that wait in the kernel to be accepted. Twisted's 50 are too few when all boxes come
#: back after a power cut.
BACKLOG = 4096

_NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

_log = Logger()


@implementer(IStreamServerEndpoint)
@frozen
class EveryAddress:
    """
    TCP on all addresses: one socket for IPv6 and IPv4, or for IPv4 if the kernel has no IPv6.

    With Twisted's `tcp6` endpoint, `net.ipv6.bindv6only` decides whether IPv4 is included.
    """

    #: A reactor with IReactorSocket.
    reactor: Any
    port: int

    def listen(self, protocolFactory: IProtocolFactory) -> "Deferred[IListeningPort]":
        """Listen; fails with OSError if the port cannot be bound."""
        return execute(self._listen, protocolFactory)

    def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        with _bound(self.port) as bound:
            bound.setblocking(False)
            # Twisted duplicates the descriptor.
            port: IListeningPort = self.reactor.adoptStreamPort(
                bound.fileno(), bound.family, factory
            )
            return port


def _bound(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("::", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True
            )
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
    return socket.create_server(("", port), backlog=BACKLOG)


@implementer(IStreamServerEndpoint)
@frozen
class RobustEndpoint:
    """Wraps an endpoint: removes a dead UNIX socket, and pauses while the machine is busy."""

    reactor: IReactorTime
    endpoint: Any

    def listen(self, protocolFactory: IProtocolFactory) -> "Deferred[IListeningPort]":
        """Listen; fails like the wrapped endpoint."""
        # The endpoint below TLS or the PROXY protocol.
        innermost = self.endpoint
        while hasattr(innermost, "_wrappedEndpoint"):
            innermost = innermost._wrappedEndpoint
        if isinstance(innermost, UNIXServerEndpoint):
            remove_dead_socket(os.fsdecode(innermost._address))
        listening: Deferred[IListeningPort] = self.endpoint.listen(protocolFactory)
        return listening.addCallback(self._accept_carefully)

    def _accept_carefully(self, port: IListeningPort) -> IListeningPort:
        if isinstance(port, Port):
            CarefulAccept(self.reactor, port)
        return port


class CarefulAccept:
    """
    Accepts connections only while the process can open another file descriptor.

    If it cannot, accept(2) fails, and the connection stays in the kernel's queue. Twisted would
    retry in each turn of the reactor, and log each failure. Here the port pauses instead.
    """

    def __init__(self, reactor: IReactorTime, port: Port) -> None:
        """Replace the port's `doRead`."""
        self._reactor = reactor
        self._port = port
        self._accept = port.doRead
        self._busy = RepeatedLine(reactor, lambda line: _log.warn("{line}", line=line))
        port.doRead = self.accept  # type: ignore[method-assign]

    def accept(self) -> None:
        """Accept the connections in the kernel's queue, or pause."""
        try:
            # Unlike dup(2), this also fails if the whole machine has too many open files.
            os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            self._busy.say(f"No connection can be accepted for now: {error.strerror}.")
            self._port.stopReading()
            self._reactor.callLater(_PAUSE, self._resume)
        else:
            # Twisted raises it with each turn in which there are more.
            self._port.numberAccepts = min(self._port.numberAccepts, MAX_ACCEPTED)
            self._accept()

    def _resume(self) -> None:
        if self._port.connected:
            self._port.startReading()


def remove_dead_socket(path: str) -> None:
    """
    Remove a UNIX socket without a listener, and Twisted's lock for it.

    The lock names a process id. In a container another process soon has the same id, so the lock
    proves nothing.
    """
    # An abstract socket (unix(7)) is not in the file system, and disappears with its process.
    if path.startswith("\0") or _has_listener(path):
        return
    with suppress(OSError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    with suppress(OSError):
        if not os.path.lexists(path) and re.fullmatch(r"\d+", os.readlink(f"{path}.lock")):
            os.unlink(f"{path}.lock")


def _has_listener(path: str) -> bool:
    """Whether a process listens; also true if that cannot be found out."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        # A blocking connect would wait while the listener's queue is full.
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except (OSError, ValueError):
            return True
    return True
