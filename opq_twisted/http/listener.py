"""Listens for HTTP on a port, or explains in a sentence why it cannot."""

import errno
import os
from contextlib import suppress
from typing import Any

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import MultiService
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint

from opq_twisted.common.errors import CannotStart
from opq_twisted.http.endpoints import BACKLOG, EveryAddress, RobustEndpoint
from opq_twisted.http.site import BoundedSite
from opq_twisted.http.tls import TLSEndpoint, parse_ssl

_HIGHEST_PORT = 65535


class Listener(MultiService):
    """Listens for HTTP on a port; if it cannot, the process ends with a sentence that says why."""

    def __init__(self, port: str, site: BoundedSite) -> None:
        """
        :param port: a TCP port number, or any endpoint description that Twisted knows.
        :raises CannotStart: if it is neither.
        """
        super().__init__()
        self._port = port
        try:
            endpoint = make_endpoint(port)
        except Exception as error:  # the endpoint parsers and OpenSSL raise many types
            raise no_such_port(port, error) from None
        self._service = StreamServerEndpointService(RobustEndpoint(site.reactor, endpoint), site)
        self._service._raiseSynchronously = True  # as `twisted.application.strports` does
        self._service.setServiceParent(self)
        #: Where the server listens, once it does.
        self.url = ""

    def privilegedStartService(self) -> None:
        """Bind the port; raise `CannotStart` if it is in use or forbidden."""
        try:
            super().privilegedStartService()
            assert self._service._waitingForPort is not None
            self._service._waitingForPort.addCallback(self._listening)
        except (CannotListenError, OverflowError, OSError, TypeError) as error:
            why, remedy = reason(error), "Stop what listens there"
            if why == os.strerror(errno.EACCES):
                remedy = "Allow this user ports below 1024 (CAP_NET_BIND_SERVICE)"
            raise CannotStart(
                f"Cannot listen on port {self._port}: {why}. {remedy}, or choose another --port."
            ) from None

    def _listening(self, port: IListeningPort) -> IListeningPort:
        self.url = url_of(port, self._port)
        return port


def url_of(listening: IListeningPort, port: str) -> str:
    """
    Return the URL of a port for logs, or the path of a UNIX socket.

    :param port: the value of `--port`.
    """
    address: Any = listening.getHost()
    host: str | None = getattr(address, "host", None)
    if host is None:
        return f"unix:{os.fsdecode(getattr(address, 'name', None) or '')}"
    if host == "::" and port.isdecimal():
        # `EveryAddress` listens on all addresses of IPv4, too.
        host = "0.0.0.0"  # noqa: S104
    elif ":" in host:
        host = f"[{host}]"
    return f"{'https' if port.startswith('ssl:') else 'http'}://{host}:{address.port}"


def make_endpoint(port: str) -> IStreamServerEndpoint:
    """
    Make the endpoint for a port.

    :param port: a TCP port number, for all addresses of the machine, or an endpoint description.
    :raises Exception: any error of the endpoint parsers or of OpenSSL.
    """
    if port.isdecimal():
        if int(port) > _HIGHEST_PORT:
            raise ValueError("the number is too high")
        return EveryAddress(reactor, int(port))
    if port.startswith("ssl:") and (parsed := parse_ssl(port)) is not None:
        tcp_port, certificate = parsed
        return TLSEndpoint(make_endpoint(tcp_port), certificate)
    if port.startswith(("tcp:", "tcp6:", "ssl:")) and ":backlog=" not in port:
        # The description may already give a backlog as a positional argument.
        with suppress(TypeError):
            return _from_description(f"{port}:backlog={BACKLOG}")
    return _from_description(port)


def _from_description(description: str) -> IStreamServerEndpoint:
    endpoint: IStreamServerEndpoint = serverFromString(reactor, description)
    return endpoint


def no_such_port(port: str, error: Exception) -> CannotStart:
    """Make the error for an invalid port, with an example of a valid one."""
    if port.isdecimal():
        return CannotStart(f"--port {port}: a TCP port must be from 1 to {_HIGHEST_PORT}.")
    return CannotStart(
        f"--port {port}: {error}. Give a TCP port number, or a Twisted endpoint "
        "description such as tcp:8151:interface=127.0.0.1."
    )


def reason(error: BaseException) -> str:
    """Explain why a port cannot be bound, as the end of a sentence."""
    cause = getattr(error, "socketError", error)
    number = getattr(cause, "errno", None) or 0
    # Errors of name resolution have negative numbers and their own text.
    text = os.strerror(number) if number > 0 else getattr(cause, "strerror", None) or str(cause)
    return text.rstrip(".")
