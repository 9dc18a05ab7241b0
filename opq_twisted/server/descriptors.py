"""How many descriptors this process may have, and so how many connections."""

import resource
from contextlib import suppress

from twisted.logger import Logger

#: Descriptors for all else: the log, the reactor, the kernel's events, a thread that reads.
_RESERVE = 64

_log = Logger()


def make_room(connections: int, downloads: int) -> tuple[int, int]:
    """
    Raise this process's limit of descriptors as far as is needed and allowed.

    A connection needs one, and a download one more for its file.

    :returns: how many connections and downloads there is room for, at most as many as were asked.
    """
    needed = connections + downloads + _RESERVE
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < needed:
        wanted = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        # A sandbox may forbid it.
        with suppress(OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            limit = wanted
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return connections, downloads
    room = max(2, limit - _RESERVE)
    fewer_downloads = min(downloads, room // 3 or 1)
    fewer_connections = min(connections, room - fewer_downloads)
    _log.warn(
        "There is room for {connections} connections and {downloads} downloads only: this process "
        "may have no more than {limit} descriptors. Raise LimitNOFILE, or lower --max-connections "
        "and --max-downloads.",
        connections=fewer_connections,
        downloads=fewer_downloads,
        limit=limit,
    )
    return fewer_connections, fewer_downloads
