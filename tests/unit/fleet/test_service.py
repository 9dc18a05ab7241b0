"""What the parts of the fleet tell each other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from twisted.internet.defer import Deferred, execute

from opq_twisted.fleet.audit import AuditNote
from opq_twisted.fleet.rollouts.orders import Order, hold
from opq_twisted.fleet.rollouts.watch import PERIOD, RolloutWatch
from opq_twisted.fleet.service import Fleet
from opq_twisted.fleet.settings import FleetSettings, PageSettings
from opq_twisted.fleet.web.site import FleetPage
from opq_twisted.http.connection_limits import ConnectionLimits
from tests.helpers.fleet_rows import NEW, NOW, add_rollout
from tests.helpers.http_exchange import ReactorClock
from tests.helpers.store_case import StoreCase


class PageTests(StoreCase):
    """The page, and what other processes do."""

    def setUp(self) -> None:
        super().setUp()
        self.write(add_rollout)
        self.clock = ReactorClock()
        operators = Path(self.mktemp())
        operators.touch(0o600)
        page = PageSettings(operators=operators, limits=ConnectionLimits())
        settings = FleetSettings(url=self.url, rollouts="auto", page=page)
        self.fleet = Fleet(self.clock, settings, lambda: NOW)
        self.addCleanup(self.fleet.database.engine.dispose)
        self.patch(self.fleet.database, "read", self.read_in_place)

    def read_in_place(self, query: Callable[[Connection], Any]) -> "Deferred[Any]":
        return execute(self.fleet.database.read_now, query)

    def test_decision(self) -> None:
        """A release that the engine of another server holds is shown in two seconds."""
        (watch,) = (each for each in self.fleet if isinstance(each, RolloutWatch))
        (page,) = (each for each in self.fleet if isinstance(each, FleetPage))
        for service in (page.current, watch):
            service.startService()
            self.addCleanup(service.stopService)
        self.clock.pump([ReactorClock.TURN] * 3)
        note = AuditNote(who="engine", because="Three boxes fell over.")
        self.write(lambda store: hold(store, Order(note=note, release=NEW, now=NOW)))
        self.clock.pump([PERIOD, ReactorClock.TURN])
        shown = self.successResultOf(Deferred.fromCoroutine(page.current.get()))
        self.assertTrue(shown["held"])
