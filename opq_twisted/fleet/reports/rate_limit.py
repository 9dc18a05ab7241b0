"""Limits how often each network may send a report."""

from twisted.internet.interfaces import IReactorTime

#: The number of reports that a network may send at once, and per second after that. A classroom or
#: an office with 200 boxes has one address.
BURST = 60
RATE = 1.0

#: The number of networks that are remembered.
MAX_NETWORKS = 10_000


class RateLimit:
    """
    A bucket of tokens for each network: a report takes one.

    Of each bucket, this remembers only the time at which it is full again, and only until then. If
    there are too many networks, it forgets the one that has been silent for the longest time.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        #: By network, the time at which its bucket is full again. The last sender is at the end.
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        """How many networks are remembered."""
        return len(self._full_at)

    def take_token(self, network: str) -> bool:
        """Take a token; return whether there was one."""
        now = self._clock.seconds()
        full_at = max(self._full_at.pop(network, now), now)
        allowed = full_at - now <= (BURST - 1) / RATE
        self._forget(now)
        self._full_at[network] = full_at + 1 / RATE if allowed else full_at
        return allowed

    def _forget(self, now: float) -> None:
        """Forget some networks whose buckets are full, and one if there is no room."""
        for network in [*_first(self._full_at, 2)]:
            if self._full_at[network] <= now or len(self._full_at) >= MAX_NETWORKS:
                del self._full_at[network]


def _first(table: dict[str, float], count: int) -> list[str]:
    return [network for network, _ in zip(table, range(count), strict=False)]
