"""Gives the paces in the database to the timestamp."""

from collections.abc import Callable, Mapping, Sequence

from opq_twisted.fleet.rollouts.announce import announce, look_up
from opq_twisted.fleet.settings import Rollouts, begins_small
from opq_twisted.fleet.store.database import Database
from opq_twisted.fleet.store.errors import StoreUnavailable
from opq_twisted.trust.pace import ChannelRelease, Pace, PaceUnknown


class DatabasePaces:
    """A `PaceSource` that keeps the rollouts in the database up to date."""

    def __init__(self, database: Database, mode: Rollouts, now: Callable[[], float]) -> None:
        """:param now: returns the seconds since the epoch."""
        self._database = database
        self._mode = mode
        self._now = now

    @property
    def asks(self) -> bool:
        """Whether a new release is not announced while its pace is unknown."""
        return begins_small(self._mode)

    def __call__(self, releases: Sequence[ChannelRelease], /) -> Mapping[str, Pace]:
        """Return the paces, and write new rollouts; it must not run in the reactor's thread."""
        mode, now = self._mode, self._now()
        try:
            # If the disk is full, the database can still be read, and that is often enough.
            paces = self._database.read_now(lambda store: look_up(store, releases, mode))
            if paces is None:
                paces = self._database.write_now(lambda store: announce(store, releases, mode, now))
        except StoreUnavailable as error:
            raise PaceUnknown(str(error)) from error
        return paces
