"""Wires the fleet together, for the update server."""

from collections.abc import Callable
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred

from opq_twisted.fleet.rollouts.pace import DatabasePaces
from opq_twisted.fleet.settings import FleetSettings
from opq_twisted.fleet.store.database import Database


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
        self.database.prepare()
        #: Gives the paces to the timestamp.
        self.paces = DatabasePaces(self.database, settings.rollouts, now)
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
