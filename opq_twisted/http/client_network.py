"""Finds the network of the sender of a request, also behind a reverse proxy."""

from collections.abc import Sequence

from opq_twisted.http.connection_limits import Network, client_network, is_address
from opq_twisted.http.request import BoundedRequest

#: The network of all clients for which a proxy sends a text that is no address.
UNKNOWN = "an unknown address"


def find_network(request: BoundedRequest, trusted: Sequence[Network]) -> str | None:
    """
    Find the network of the sender of a request.

    Behind trusted proxies, the sender is the last address of `X-Forwarded-For` that is not a
    proxy's. The client may have written the addresses before it.

    :returns: an IPv4 address, or the /64 network of an IPv6 address; `UNKNOWN` for a text that is
        neither; None for a program on this machine, or a trusted proxy that names no client.
    """
    client = request.channel.client
    if client is not None:
        return client
    lines = request.requestHeaders.getRawHeaders(b"X-Forwarded-For", ())
    for host in reversed(b",".join(lines).split(b",")):
        name = _without_port(host.strip().decode("ascii", "replace")[:64])
        if name and not is_address(name):
            # Otherwise a client could write any text into the log, and be a new network each time.
            return UNKNOWN
        network = client_network(name, tuple(trusted)) if name else None
        if network is not None:
            return network
    return None


def _without_port(name: str) -> str:
    """Remove the port, which some proxies add, and which differs with each connection."""
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0] if name.count(":") == 1 else name
