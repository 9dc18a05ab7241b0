"""Limits the connections and downloads of this process, and counts the downloads."""

from collections import Counter
from collections.abc import Callable, Sequence
from random import random

from twisted.logger import Logger
from twisted.python.failure import Failure

from opq_twisted.http.connection_limits import (
    RESERVE,
    ConnectionLimits,
    Network,
    Shares,
    first_reserved,
    raise_descriptor_limit,
    share,
)
from opq_twisted.server.catalog.updates_file import Archive

#: Minimum and maximum of the seconds after which a rejected client may retry. The number is random,
#: so that not all clients come back at once.
_RETRY_AFTER = (10, 60)

#: Bytes that all downloads together give to the kernel in one turn of the reactor, and the minimum
#: for each download.
_TURN = 16 * 1024 * 1024
_MIN_TURN = 2 * 1024 * 1024

_log = Logger()


def make_room(
    connections: int, downloads: int, trusted: Sequence[Network] = ()
) -> tuple[ConnectionLimits, int]:
    """
    Raise this process's limit of file descriptors, and lower the other limits if that fails.

    A connection needs one descriptor, and a download one more for its file.

    :param trusted: networks of reverse proxies.
    :returns: the limits of the connections, and the maximum number of downloads; both at most as
        high as requested.
    """
    needed = connections + downloads + RESERVE
    limit = raise_descriptor_limit(needed)
    if limit < needed:
        # An idle server has a dozen descriptors open, fewer than are left over here.
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
    limits = ConnectionLimits(
        connections, share(connections), first_reserved=first_reserved(limit), trusted=trusted
    )
    return limits, downloads


class Downloads:
    """Limits the downloads under way, and counts all downloads since the start by version."""

    def __init__(self, limit: int, random: Callable[[], float] = random) -> None:
        self._shares = Shares(limit)
        self._random = random
        self.under_way: Counter[int] = Counter()
        self.completed: Counter[int] = Counter()
        self.cut: Counter[int] = Counter()
        self.rejected = 0
        self.bytes_sent = 0

    def has_room(self, client: str | None) -> bool:
        """Whether a client may start one more download."""
        return self._shares.has_room(client)

    @property
    def bytes_per_turn(self) -> int:
        """Bytes that each download under way may send in one turn of the reactor."""
        return max(_MIN_TURN, _TURN // max(1, self.under_way.total()))

    def reject(self) -> int:
        """Count a rejected client; returns the seconds after which it may retry."""
        self.rejected += 1
        least, longest = _RETRY_AFTER
        return least + int((longest - least) * self._random())

    def begin(self, archive: Archive, client: str | None = None) -> Callable[[object], None]:
        """Count a download; returns the callback for its end, with a Failure if it was cut."""
        version = archive.name.version
        self._shares.acquire(client)
        self.under_way[version] += 1

        def ended(result: object) -> None:
            self._shares.release(client)
            self.under_way[version] -= 1
            if not self.under_way[version]:
                del self.under_way[version]
            (self.cut if isinstance(result, Failure) else self.completed)[version] += 1

        return ended
