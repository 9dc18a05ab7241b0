"""Decides whether a new key may be added to the database."""

import random
from collections import Counter
from collections.abc import Callable

from attrs import Factory, field, frozen

from opq_twisted.fleet.reports.answer import Answer
from opq_twisted.fleet.reports.incoming import Incoming
from opq_twisted.fleet.settings import Enrolment
from opq_twisted.report.signature import is_proved

#: The limit of new keys of one network in a day.
MAX_FROM_NETWORK = 20

#: The limit of new keys of all networks in a day: twice the largest fleet on its first day.
MAX_IN_DAY = 200_000

#: The limit of networks that are counted at a time; for another one, the oldest is dropped.
MAX_NETWORKS = 50_000

#: Minimum and maximum of `Retry-After` in seconds, for a network with too many new keys.
_LATER = (3600.0, 4 * 3600.0)

_DAY = 24 * 3600


class NewKeyCounts:
    """
    Counts the new keys of each network on this day (UTC).

    The counts are in memory only: the server stores nobody's address.
    """

    def __init__(self) -> None:
        self._day = 0
        self._total = 0
        self._networks: dict[str, int] = {}

    def is_full(self, network: str, now: float, more: Counter[str]) -> bool:
        """
        Whether a network may bring no further key on this day.

        :param network: "" if it is unknown, as behind a proxy that names no client. Then only the
            limit of all networks together applies.
        :param now: in seconds since the epoch.
        :param more: the number of keys that are about to be added, by network.
        """
        self._begin_day(now)
        if self._total + more.total() >= MAX_IN_DAY:
            return True
        return bool(network) and self._networks.get(network, 0) + more[network] >= MAX_FROM_NETWORK

    def add(self, more: Counter[str], now: float) -> None:
        """Count keys by their networks."""
        self._begin_day(now)
        self._total += more.total()
        for network, count in more.items():
            self._networks[network] = self._networks.get(network, 0) + count
        while len(self._networks) > MAX_NETWORKS:
            del self._networks[next(iter(self._networks))]

    def _begin_day(self, now: float) -> None:
        day = int(now // _DAY)
        if day != self._day:
            self._day, self._total, self._networks = day, 0, {}


@frozen
class EnrolmentPolicy:
    """
    Decides about new keys by the mode.

    `open` accepts each key at its first use. `token` accepts a key with a proof that its box knows
    the token. `closed` accepts only keys that an operator has admitted.

    A key that is in the database already needs no further decision, in any mode.
    """

    mode: Enrolment = "open"
    #: The secret of the fleet; needed with `token`.
    token: str | None = None
    new_keys: NewKeyCounts = Factory(NewKeyCounts)
    #: Gives a number between two others.
    random: Callable[[float, float], float] = random.uniform
    #: The new keys of the batch that is under way, by network.
    _staged: Counter[str] = field(init=False, factory=Counter)

    def refuse(self, incoming: Incoming, more: Counter[str]) -> Answer | None:
        """
        Return the refusal of a new key before its signature is verified; None to verify it.

        :param more: the new keys of this batch so far, by network.
        """
        if self.mode == "closed":
            return Answer(403, "closed")
        if self.new_keys.is_full(incoming.network, incoming.received, more):
            return Answer(429, "too-many-keys", retry_after=self.random(*_LATER))
        return None

    def stage(self, more: Counter[str]) -> None:
        """Remember the new keys of a batch until `confirm`: it may fail, or be applied again."""
        self._staged.clear()
        self._staged.update(more)

    def confirm(self, now: float) -> None:
        """Count the new keys of a batch after its commit; `now` is in seconds since the epoch."""
        self.new_keys.add(self._staged, now)
        self._staged.clear()

    def is_proved(self, public: bytes, proof: str | None) -> bool:
        """Whether a new key with a valid signature has the proof that the mode requires."""
        return self.mode != "token" or is_proved(self.token or "", public, proof)
