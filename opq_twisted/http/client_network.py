"""The network that a request comes from, also through a reverse proxy."""

from collections.abc import Sequence

from opq_twisted.http.connection_limits import Network, client_network, is_address
from opq_twisted.http.request import BoundedRequest

#: The network of all who come with something that is no address.
UNKNOWN = "an unknown address"


def find_network(request: BoundedRequest, trusted: Sequence[Network]) -> str | None:
    """
    Find the network that the sender of a request belongs to.

    Behind trusted proxies it is the last address of `X-Forwarded-For` that is not one of theirs:
    those before it were written by the client.

    :returns: an IPv4 address, or the /64 network of an IPv6 address; `UNKNOWN` for a text that is
        neither; None for a program on this machine, or a trusted proxy that names nobody.
    """
    client = request.channel.client
    if client is not None:
        return client
    lines = request.requestHeaders.getRawHeaders(b"X-Forwarded-For", ())
    for host in reversed(b",".join(lines).split(b",")):
        name = _without_port(host.strip().decode("ascii", "replace")[:64])
        if name and not is_address(name):
            # What a client makes up would get into the log, and be a new network each time.
            return UNKNOWN
        network = client_network(name, tuple(trusted)) if name else None
        if network is not None:
            return network
    return None


def _without_port(name: str) -> str:
    """Return an address alone: some proxies add the port, which differs with each connection."""
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0] if name.count(":") == 1 else name
