"""Makes the endpoint of a port, and explains why one cannot be used."""

import os
from contextlib import suppress
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint

from opq_twisted.common.errors import CannotStart
from opq_twisted.http.endpoints import BACKLOG, EveryAddress
from opq_twisted.http.tls import TLSEndpoint, parse_ssl

_HIGHEST_PORT = 65535


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


def no_such_port(port: str, error: Exception, option: str = "--port") -> CannotStart:
    """Make the error for an invalid port, with an example of a valid one."""
    if port.isdecimal():
        return CannotStart(f"{option} {port}: a TCP port must be from 1 to {_HIGHEST_PORT}.")
    return CannotStart(
        f"{option} {port}: {error}. Give a TCP port number, or a Twisted endpoint "
        "description such as tcp:8151:interface=127.0.0.1."
    )


def reason(error: BaseException) -> str:
    """Explain why a port cannot be bound, as the end of a sentence."""
    cause = getattr(error, "socketError", error)
    number = getattr(cause, "errno", None) or 0
    # Errors of name resolution have negative numbers and their own text.
    text = os.strerror(number) if number > 0 else getattr(cause, "strerror", None) or str(cause)
    return text.rstrip(".")
