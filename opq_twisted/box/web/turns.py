"""Takes those who guess a password one at a time, and first those who have failed least."""

from collections import OrderedDict

from attrs import define, field
from twisted.internet.defer import Deferred

#: Where a guess comes from: an address, and after it the network that counts as well.
Source = tuple[str | None, ...]

#: Guesses that wait, of all clients and of one.
_MOST_WAITING = 64
_MOST_EACH = 2

#: Addresses and networks whose failures are counted; of more, the one that failed longest ago is
#: forgotten.
_MOST_COUNTED = 1024


class TooManyGuesses(Exception):
    """So many passwords wait to be looked at that this one is not."""


@define(eq=False)
class _Guess:
    client: Source
    turn: Deferred[None] = field(factory=Deferred)


class Turns:
    """
    Gives turns, so that a client who guesses wrong again and again does not keep others waiting.

    The next turn is that of the address with the fewest failures, and of such addresses that of the
    network with the fewest. So an owner does not wait behind another machine of the same home,
    whose addresses are of one network in IPv6, nor a whole network behind one that has failed.
    Among equals the latest guess is first, so that an owner does not wait behind a crowd that came
    before. A guess beyond those that one address may have waiting counts as a failure. When too
    many wait, those with the most failures are turned away first.
    """

    def __init__(self) -> None:
        self._taken = False
        self._waiting: list[_Guess] = []
        self._failures: OrderedDict[str | None, int] = OrderedDict()

    async def take(self, client: Source) -> None:
        """
        Wait for a turn, which has to be given back.

        :raises TooManyGuesses: when too many wait already, or too many of this client.
        """
        if not self._taken:
            self._taken = True
            return
        self._make_room(client)
        guess = _Guess(client)
        self._waiting.append(guess)
        await guess.turn

    def give_back(self, client: Source, *, failed: bool) -> None:
        """End a turn, with what came of it, and begin the next one."""
        if failed:
            self._count_failure(client)
        else:
            self._failures.pop(client[0], None)
        self._taken = bool(self._waiting)
        if self._waiting:
            chosen = min(reversed(self._waiting), key=lambda guess: self._count(guess.client))
            self._waiting.remove(chosen)
            chosen.turn.callback(None)

    def _make_room(self, client: Source) -> None:
        if sum(guess.client == client for guess in self._waiting) >= _MOST_EACH:
            self._count_failure(client)
            raise TooManyGuesses
        if len(self._waiting) >= _MOST_WAITING:
            worst = max(self._waiting, key=lambda guess: self._count(guess.client))
            if self._count(worst.client) <= self._count(client):
                raise TooManyGuesses
            self._waiting.remove(worst)
            worst.turn.errback(TooManyGuesses())

    def _count_failure(self, client: Source) -> None:
        for each in client:
            self._failures[each] = self._failures.pop(each, 0) + 1
            if len(self._failures) > _MOST_COUNTED:
                self._failures.popitem(last=False)

    def _count(self, client: Source) -> tuple[int, ...]:
        return tuple(self._failures.get(each, 0) for each in client)
