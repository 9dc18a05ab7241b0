"""Wires the fleet together, for the update server."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred

from opq_twisted.fleet.settings import FleetSettings
from opq_twisted.fleet.store.database import Database
from opq_twisted.trust.pace import ChannelRelease, Pace


class Fleet(MultiService):
    """The fleet's part of the update server."""

    def __init__(self, reactor: Any, settings: FleetSettings, now: Callable[[], float]) -> None:
        """
        Open the database.

        :param now: gives the time of day, in seconds since the epoch.
        :raises CannotStart: if the database cannot be used.
        """
        super().__init__()
        self.database = Database(reactor, settings.url)
        #: Called when an operator has changed the pace of a rollout.
        self.pace_observers: list[Callable[[], None]] = []

    def startService(self) -> None:
        """Start the threads of the database first."""
        self.database.start()
        super().startService()

    def stopService(self) -> Deferred[None]:
        """Stop everything that uses the database, and close it."""
        stopped: Deferred[None] = super().stopService()
        return stopped.addCallback(lambda _: self.database.stop())

    def paces(self, releases: Sequence[ChannelRelease]) -> Mapping[str, Pace]:
        """
        Return the pace of each channel that has one: a `PaceSource`, for the timestamp's thread.

        :raises PaceUnknown: if the database cannot be read.
        """
        return {}
