"""How many descriptors this process may have, and so how many connections."""

from collections.abc import Sequence

from twisted.logger import Logger

from opq_twisted.http.limits import (
    RESERVE,
    Limits,
    Network,
    first_reserved,
    raise_descriptor_limit,
    share,
)

_log = Logger()


def make_room(
    connections: int, downloads: int, trusted: Sequence[Network] = ()
) -> tuple[Limits, int]:
    """
    Raise this process's limit of descriptors as far as is needed and allowed.

    A connection needs one, and a download one more for its file.

    :param trusted: networks of reverse proxies.
    :returns: the limits of the connections, and how many downloads there is room for; at most as
        many as were asked.
    """
    needed = connections + downloads + RESERVE
    limit = raise_descriptor_limit(needed)
    if limit < needed:
        # At rest a server has a dozen open, which are less than what is left here.
        room = max(2, limit - RESERVE, limit // 4)
        downloads = min(downloads, room // 3 or 1)
        connections = min(connections, room - downloads)
        _log.warn(
            "There is room for {connections} connections and {downloads} downloads only: this "
            "process may have no more than {limit} descriptors. Raise LimitNOFILE, or lower "
            "--max-connections and --max-downloads.",
            connections=connections,
            downloads=downloads,
            limit=limit,
        )
    limits = Limits(
        connections, share(connections), first_reserved=first_reserved(limit), trusted=trusted
    )
    return limits, downloads
