"""Queues password checks: one at a time, clients with the fewest failures first."""

from collections import OrderedDict

from attrs import define, field
from twisted.internet.defer import Deferred

#: A client's address and its network: an IPv6 /64; for IPv4 both are the address.
ClientKey = tuple[str | None, str | None]

#: Limits for waiting checks: in total, and per client.
_MAX_WAITING = 64
_MAX_WAITING_PER_CLIENT = 2

#: The number of addresses and networks whose failures are counted. If there are more, the one that
#: has not failed for the longest time is dropped.
_MAX_COUNTED = 1024


class TooManyAttempts(Exception):
    """Too many password checks are waiting; this one was rejected."""


@define(eq=False)
class _Waiter:
    client: ClientKey
    turn: Deferred[None] = field(factory=Deferred)


class PasswordCheckQueue:
    """
    A lock that prefers clients with few failures, so that a guesser does not delay the owner.

    - The address with the fewest failures is next; among equal addresses, the network with the
      fewest. The address is compared first, so one failing machine delays neither the owner in the
      same IPv6 /64 nor the rest of that /64.
    - Among equals the latest attempt is next, so the owner does not wait behind an earlier crowd.
    - An attempt beyond the limit for one client counts as a failure.
    - When the queue is full, the waiter with the most failures is rejected: of equals the oldest.
      It counts as a failure, so a crowd that keeps knocking does not keep the owner out.
    - A correct password clears the failures of its address, but not those of the network.
    """

    def __init__(self) -> None:
        self._is_locked = False
        self._waiters: list[_Waiter] = []
        self._failures: OrderedDict[str | None, int] = OrderedDict()

    async def acquire(self, client: ClientKey) -> None:
        """
        Wait until the password of this client may be checked; then call `release`.

        :raises TooManyAttempts: if too many checks wait already, in total or for this client.
        """
        if not self._is_locked:
            self._is_locked = True
            return
        self._make_room(client)
        waiter = _Waiter(client)
        self._waiters.append(waiter)
        await waiter.turn

    def release(self, client: ClientKey, *, failed: bool) -> None:
        """Record the result of a check, and let the next client in."""
        if failed:
            self._count_failure(client)
        else:
            self._failures.pop(client[0], None)
        self._is_locked = bool(self._waiters)
        if self._waiters:
            chosen = min(reversed(self._waiters), key=lambda each: self._count(each.client))
            self._waiters.remove(chosen)
            chosen.turn.callback(None)

    def _make_room(self, client: ClientKey) -> None:
        if sum(each.client == client for each in self._waiters) >= _MAX_WAITING_PER_CLIENT:
            self._count_failure(client)
            raise TooManyAttempts
        if len(self._waiters) >= _MAX_WAITING:
            # The first of equals, which waits longest.
            worst = max(self._waiters, key=lambda each: self._count(each.client))
            if self._count(worst.client) < self._count(client):
                self._count_failure(client)
                raise TooManyAttempts
            self._waiters.remove(worst)
            self._count_failure(worst.client)
            worst.turn.errback(TooManyAttempts())

    def _count_failure(self, client: ClientKey) -> None:
        for key in dict.fromkeys(client):
            self._failures[key] = self._failures.pop(key, 0) + 1
            if len(self._failures) > _MAX_COUNTED:
                self._failures.popitem(last=False)

    def _count(self, client: ClientKey) -> tuple[int, ...]:
        return tuple(self._failures.get(key, 0) for key in client)
