"""Takes those who guess a password one at a time, and first those who have failed least."""

from collections import OrderedDict

from attrs import define, field
from twisted.internet.defer import Deferred

#: Guesses that wait, of all clients and of one.
_MOST_WAITING = 64
_MOST_EACH = 2

#: Clients whose failures are counted; of more, those that failed longest ago are forgotten.
_MOST_COUNTED = 1024


class TooManyGuesses(Exception):
    """So many passwords wait to be looked at that this one is not."""


@define(eq=False)
class _Guess:
    client: str | None
    turn: Deferred[None] = field(factory=Deferred)


class Turns:
    """
    Gives turns, so that a client who guesses wrong again and again does not keep others waiting.

    The next turn is that of the client with the fewest failures. Among equals the latest guess is
    first, so that an owner does not wait behind a crowd that came before. A guess beyond those that
    one client may have waiting counts as a failure. When too many wait, those of the client with
    the most failures are turned away first.
    """

    def __init__(self) -> None:
        self._taken = False
        self._waiting: list[_Guess] = []
        self._failures: OrderedDict[str | None, int] = OrderedDict()

    async def take(self, client: str | None) -> None:
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

    def give_back(self, client: str | None, *, failed: bool) -> None:
        """End a turn, with what came of it, and begin the next one."""
        if failed:
            self._count_failure(client)
        else:
            self._failures.pop(client, None)
        self._taken = bool(self._waiting)
        if self._waiting:
            chosen = min(reversed(self._waiting), key=self._count)
            self._waiting.remove(chosen)
            chosen.turn.callback(None)

    def _make_room(self, client: str | None) -> None:
        if sum(guess.client == client for guess in self._waiting) >= _MOST_EACH:
            self._count_failure(client)
            raise TooManyGuesses
        if len(self._waiting) >= _MOST_WAITING:
            worst = max(self._waiting, key=self._count)
            if self._count(worst) <= self._failures.get(client, 0):
                raise TooManyGuesses
            self._waiting.remove(worst)
            worst.turn.errback(TooManyGuesses())

    def _count_failure(self, client: str | None) -> None:
        self._failures[client] = self._failures.pop(client, 0) + 1
        if len(self._failures) > _MOST_COUNTED:
            self._failures.popitem(last=False)

    def _count(self, guess: _Guess) -> int:
        return self._failures.get(guess.client, 0)
