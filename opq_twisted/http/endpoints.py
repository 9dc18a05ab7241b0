"""Endpoints for servers: every address, a busy machine, and sockets left by a killed server."""

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

#: Seconds for which nothing is accepted when the machine has no descriptor, or no memory.
_PAUSE = 1.0

#: Connections that the kernel keeps until they are accepted; Twisted's 50 is soon full when a fleet
#: comes back after a power cut.
BACKLOG = 4096

_NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

_log = Logger()


@implementer(IStreamServerEndpoint)
@frozen
class EveryAddress:
    """
    One socket for IPv6 and IPv4, or for IPv4 where the kernel has no IPv6.

    Twisted's `tcp6` endpoint lets the machine decide whether it takes IPv4 (`net.ipv6.bindv6only`).
    """

    #: The reactor that sockets are given to (IReactorSocket).
    reactor: Any
    port: int

    def listen(self, protocolFactory: IProtocolFactory) -> "Deferred[IListeningPort]":
        """Listen; fails with OSError when the port cannot be had."""
        return execute(self._listen, protocolFactory)

    def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        with _bound(self.port) as bound:
            bound.setblocking(False)
            # Twisted keeps a copy of it.
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
    """Another endpoint, whose port can be had after a kill, and waits while the machine is busy."""

    reactor: IReactorTime
    endpoint: Any

    def listen(self, protocolFactory: IProtocolFactory) -> "Deferred[IListeningPort]":
        """Listen; fails as the other endpoint does."""
        # Below TLS, or a proxy's protocol.
        innermost = self.endpoint
        while hasattr(innermost, "_wrappedEndpoint"):
            innermost = innermost._wrappedEndpoint
        if isinstance(innermost, UNIXServerEndpoint):
            remove_dead_socket(os.fsdecode(innermost._address))
        listening: Deferred[IListeningPort] = self.endpoint.listen(protocolFactory)
        return listening.addCallback(self._take_care)

    def _take_care(self, port: IListeningPort) -> IListeningPort:
        if isinstance(port, Port):
            CarefulAccept(self.reactor, port)
        return port


class CarefulAccept:
    """
    Accepts connections only while the process can have another descriptor.

    When it cannot, accept(2) fails and its connection stays in the kernel's queue. Twisted would
    try again in each turn of the reactor, and write a line each time. Here the port pauses, and
    the connections wait in the queue.
    """

    def __init__(self, reactor: IReactorTime, port: Port) -> None:
        """Take the place of the port's own reading."""
        self._reactor = reactor
        self._port = port
        self._accept = port.doRead
        self._busy = RepeatedLine(reactor, lambda line: _log.warn("{line}", line=line))
        port.doRead = self.accept  # type: ignore[method-assign]

    def accept(self) -> None:
        """Accept what waits in the kernel's queue, or pause."""
        try:
            # Unlike dup(2) this also fails when the whole machine has no more open files.
            os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            self._busy.say(f"No connection can be accepted for now: {error.strerror}.")
            self._port.stopReading()
            self._reactor.callLater(_PAUSE, self._go_on)
        else:
            self._accept()

    def _go_on(self) -> None:
        if self._port.connected:
            self._port.startReading()


def remove_dead_socket(path: str) -> None:
    """
    Remove a UNIX socket on which nobody listens, and the lock that Twisted made for it.

    The lock names a process, and in a container another process soon has the same number. Whether
    somebody listens is what counts.
    """
    # One whose name begins so is not in the file system (unix(7)), and ends with its process.
    if path.startswith("\0") or _is_listened_on(path):
        return
    with suppress(OSError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    with suppress(OSError):
        if not os.path.lexists(path) and re.fullmatch(r"\d+", os.readlink(f"{path}.lock")):
            os.unlink(f"{path}.lock")


def _is_listened_on(path: str) -> bool:
    """Tell whether somebody listens, or whether that cannot be found out."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        # A full queue must not be waited for.
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except (OSError, ValueError):
            return True
    return True
