"""Writes a batch of reports, and writes it again after a conflict with another server process."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from attrs import define
from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from opq_twisted.fleet.reports.answer import Answer
from opq_twisted.fleet.reports.incoming import Incoming
from opq_twisted.fleet.store.errors import StoreUnavailable

#: The number of attempts to write a batch, if each one ends in a conflict.
_TRIES = 4

#: The longest pause between two attempts, in seconds.
_PAUSE = 0.1

#: Serialization failure and deadlock (PostgreSQL manual, appendix A).
_CONFLICTS = ("40001", "40P01")

#: Stores a batch in the transaction of the connection; returns the answers in the same order.
Apply = Callable[[Connection, Sequence[Incoming]], Sequence[Answer]]

#: Runs a function in a transaction, as `Database.write`.
Write = Callable[[Callable[[Connection], Any]], Deferred[Any]]


@define(eq=False)
class BatchWriter:
    """Stores batches in the database."""

    _clock: IReactorTime
    _write: Write
    _apply: Apply

    async def write(self, batch: Sequence[Incoming]) -> Sequence[Answer]:
        """
        Store a batch in one transaction, and return the answers after the commit.

        :raises StoreUnavailable: if the database cannot be used, or refuses the content.
        """
        for tries_left in reversed(range(_TRIES)):
            try:
                answers: Sequence[Answer] = await self._write(
                    lambda connection: self._apply(connection, batch)
                )
                break
            except StoreUnavailable as error:
                if not tries_left or not _is_conflict(error):
                    raise
            await deferLater(self._clock, random.uniform(0, _PAUSE))  # noqa: S311
        return answers


def is_refused(error: StoreUnavailable) -> bool:
    """Whether the database can be used, but refuses this content."""
    return isinstance(error.__cause__, (DataError, IntegrityError))


def _is_conflict(error: StoreUnavailable) -> bool:
    """Whether the cause was a conflict with another process, so that a new attempt may succeed."""
    cause = error.__cause__
    # Both may have added the same key.
    return isinstance(cause, IntegrityError) or (
        isinstance(cause, DBAPIError) and getattr(cause.orig, "sqlstate", None) in _CONFLICTS
    )
