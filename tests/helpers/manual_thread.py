"""Stands in for deferToThread: a test says when the work is done."""

from collections.abc import Callable

from twisted.internet.defer import Deferred, maybeDeferred


class Thread:
    """A thread that gets to work when a test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    def __call__(
        self, function: Callable[..., bytes | None], *arguments: object
    ) -> Deferred[bytes | None]:
        done: Deferred[bytes | None] = Deferred()
        self.waiting.append(lambda: maybeDeferred(function, *arguments).chainDeferred(done))
        return done

    def work(self) -> None:
        """Do what has been waiting for the longest time."""
        self.waiting.pop(0)()

    def finish(self) -> None:
        """Do all that is waiting: a coroutine that is left alone at a test's end complains."""
        while self.waiting:
            self.work()
