"""Stands in for deferToThread: a test says when the work is done."""

from collections.abc import Callable

from twisted.internet.defer import Deferred, maybeDeferred


class Thread:
    """A thread that works when the test calls `work`."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    def __call__(
        self, function: Callable[..., bytes | None], *arguments: object
    ) -> Deferred[bytes | None]:
        done: Deferred[bytes | None] = Deferred()
        self.waiting.append(lambda: maybeDeferred(function, *arguments).chainDeferred(done))
        return done

    def work(self) -> None:
        """Do the job that has waited longest."""
        self.waiting.pop(0)()

    def finish(self) -> None:
        """Do all jobs: a coroutine that is unfinished at the end of a test logs an error."""
        while self.waiting:
            self.work()
