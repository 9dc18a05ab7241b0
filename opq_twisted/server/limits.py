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
from opq_twisted.server.catalog.snapshot import Archive

#: Seconds after which a client that was turned away may ask again: at least, and at most. They
#: differ for each, or all would come back at once.
_RETRY_AFTER = (10, 60)

#: Bytes that all downloads together hand to the kernel before the reactor turns to others, and
#: that each may at least.
_TURN = 16 * 1024 * 1024
_LEAST_TURN = 2 * 1024 * 1024

_log = Logger()


def make_room(
    connections: int, downloads: int, trusted: Sequence[Network] = ()
) -> tuple[ConnectionLimits, int]:
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
    limits = ConnectionLimits(
        connections, share(connections), first_reserved=first_reserved(limit), trusted=trusted
    )
    return limits, downloads


class Downloads:
    """What is being sent now, and what was sent since the start, by version."""

    def __init__(self, most: int, random: Callable[[], float] = random) -> None:
        self._shares = Shares(most)
        self._random = random
        self.under_way: Counter[int] = Counter()
        self.completed: Counter[int] = Counter()
        self.cut: Counter[int] = Counter()
        self.turned_away = 0
        self.bytes_sent = 0

    def has_room(self, client: str | None) -> bool:
        """Whether a client may have one more download at once."""
        return self._shares.has_room(client)

    @property
    def turn(self) -> int:
        """Bytes that one of the downloads under way may send before others get their turn."""
        return max(_LEAST_TURN, _TURN // max(1, self.under_way.total()))

    def turn_away(self) -> int:
        """Count a client that is to come back later; returns after how many seconds."""
        self.turned_away += 1
        least, longest = _RETRY_AFTER
        return least + int((longest - least) * self._random())

    def begin(self, archive: Archive, client: str | None = None) -> Callable[[object], None]:
        """Count a download; call what is returned with its result, a Failure if it was cut."""
        version = archive.name.version
        self._shares.take(client)
        self.under_way[version] += 1

        def ended(result: object) -> None:
            self._shares.give_back(client)
            self.under_way[version] -= 1
            if not self.under_way[version]:
                del self.under_way[version]
            (self.cut if isinstance(result, Failure) else self.completed)[version] += 1

        return ended
