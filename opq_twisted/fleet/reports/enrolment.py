"""Decides whether a key that is not in the database may get into it."""

import random
from collections import Counter
from collections.abc import Callable

from attrs import Factory, field, frozen

from opq_twisted.fleet.reports.answer import Answer
from opq_twisted.fleet.reports.incoming import Incoming
from opq_twisted.fleet.settings import Enrolment
from opq_twisted.report.signature import is_proved

#: New keys of one network in a day.
MAX_FROM_NETWORK = 20

#: New keys in a day, of all networks: twice the largest fleet on its first day.
MAX_IN_DAY = 200_000

#: Networks that are counted at a time; the one that was counted first is given up for another.
MAX_NETWORKS = 50_000

#: Seconds until a box whose network has brought too many keys comes back: at least, and at most.
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

        :param network: "" is none in particular, such as that of a proxy that names no client; it
            has only the bound of all networks.
        :param now: in seconds since the epoch.
        :param more: keys that are about to be added.
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
    How new keys get in: `open` trusts the first use of a key, `token` wants a proof that the box
    knows the token, and `closed` lets none in that no operator has admitted.

    A key that is in the database already is not asked again, whatever the mode is.
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
        Return the refusal of a new key before its signature is verified; None if it may go on.

        :param more: the new keys of this batch so far, by network.
        """
        if self.mode == "closed":
            return Answer(403, "closed")
        if self.new_keys.is_full(incoming.network, incoming.received, more):
            return Answer(429, "too-many-keys", retry_after=self.random(*_LATER))
        return None

    def stage(self, more: Counter[str]) -> None:
        """Note the new keys of a batch, which may still fail, or be applied again."""
        self._staged.clear()
        self._staged.update(more)

    def confirm(self, now: float) -> None:
        """Count the new keys of a batch: it was committed. Now is in seconds since the epoch."""
        self.new_keys.add(self._staged, now)
        self._staged.clear()

    def is_proved(self, public: bytes, proof: str | None) -> bool:
        """Whether a new key, whose signature is valid, has the proof that this mode wants."""
        return self.mode != "token" or is_proved(self.token or "", public, proof)
