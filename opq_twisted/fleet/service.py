"""Wires the fleet together, for the update server."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred

from opq_twisted.common.errors import CannotStart
from opq_twisted.fleet.control.changes import Changes
from opq_twisted.fleet.control.queries import Queries
from opq_twisted.fleet.control.site import make_control, make_root
from opq_twisted.fleet.control.try_webhook import WebhookTestResource
from opq_twisted.fleet.engine.judge import Judge
from opq_twisted.fleet.engine.service import Engine
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.metrics.collector import FleetMetrics
from opq_twisted.fleet.presence import Presence
from opq_twisted.fleet.reports.answer import Answer
from opq_twisted.fleet.reports.apply import apply
from opq_twisted.fleet.reports.enrolment import EnrolmentPolicy
from opq_twisted.fleet.reports.inbox import Inbox
from opq_twisted.fleet.reports.resource import ReportResource
from opq_twisted.fleet.retention.daily_cleanup import DailyCleanup
from opq_twisted.fleet.rollouts.pace import DatabasePaces
from opq_twisted.fleet.rollouts.watch import RolloutWatch, current_rollouts
from opq_twisted.fleet.settings import FleetSettings, PageSettings
from opq_twisted.fleet.store.database import Database
from opq_twisted.fleet.web.site import FleetPage
from opq_twisted.fleet.webhook.outbox import Notify, discard
from opq_twisted.fleet.webhook.post import Poster, Receiver, make_agent
from opq_twisted.fleet.webhook.sender import Sender
from opq_twisted.http.connection_limits import Network
from opq_twisted.http.request import BoundedRequest


class Fleet(MultiService):
    """The fleet's part of the update server."""

    def __init__(
        self,
        reactor: Any,
        settings: FleetSettings,
        now: Callable[[], float],
        trusted: Sequence[Network] = (),
        waiting: Callable[[], Iterable[BoundedRequest]] = tuple,
    ) -> None:
        """
        Prepare all parts, and check the database.

        :param now: gives the time of day, in seconds since the epoch.
        :param trusted: networks of reverse proxies.
        :param waiting: gives the requests of the boxes that wait for a release.
        :raises CannotStart: if the database cannot be used. A server of PostgreSQL need not answer.
        """
        super().__init__()
        self.database = Database(reactor, settings.url)
        self.database.prepare()
        #: Gives the paces to the timestamp.
        self.paces = DatabasePaces(self.database, settings.rollouts, now)
        self.judge = Judge(
            mode=settings.rollouts,
            timing=Timing().shortened(settings.shorten),
            hours=settings.widen_hours,
            metadata_problem=lambda: self.metadata_problem(),
        )
        #: Returns the problem with the signed metadata as a sentence; the signing server sets it.
        self.metadata_problem: Callable[[], str | None] = lambda: None
        #: Called when the pace of a rollout has changed, to sign a new timestamp.
        self.pace_observers: list[Callable[[], None]] = []
        #: The boxes that wait for a release.
        self.presence = Presence(waiting)
        inbox = self._make_inbox(reactor, settings, now)
        #: `POST /report`.
        self.reports = ReportResource(reactor, inbox, now, trusted)
        poster = _make_poster(reactor, settings, now)
        sender = None if poster is None else Sender(reactor, self.database.write, poster, now)
        #: Sends a message to the webhook, if there is one.
        self.notify: Notify = discard if sender is None else sender.put
        self.metrics = FleetMetrics(
            reactor, self.reports, inbox, self.database.read, self.judge.for_show, now, sender
        )
        changes = Changes(now, self._notify_pace_changed)
        queries = Queries(now, self._count_waiting, self.judge)
        root = make_root(self.database, queries, changes)
        root.putChild(b"webhook-test", WebhookTestResource(poster, now))
        if sender is not None:
            sender.setServiceParent(self)
        shown: list[Callable[[], None]] = []
        if settings.page is not None:
            page = self._make_page(reactor, settings.page, changes, now)
            page.setServiceParent(self)
            shown.append(page.current.count_soon)
        for each in (
            inbox,
            DailyCleanup(reactor, self.database, now),
            make_control(reactor, settings.socket, root),
            RolloutWatch(
                reactor, lambda: self.database.read(current_rollouts), self.pace_observers, shown
            ),
        ):
            each.setServiceParent(self)
        if settings.rollouts != "off":
            self._make_engine(reactor, now).setServiceParent(self)

    def startService(self) -> None:
        """Start the threads of the database first."""
        self.database.start()
        try:
            super().startService()
        except CannotStart:
            # The process would wait for its threads.
            self.database.stop()
            raise

    def stopService(self) -> Deferred[None]:
        """Stop everything that uses the database, and close it."""
        stopped: Deferred[None] = super().stopService()
        return stopped.addCallback(lambda _: self.database.stop())

    def _make_inbox(self, reactor: Any, settings: FleetSettings, now: Callable[[], float]) -> Inbox:
        enrolment = EnrolmentPolicy(settings.enrolment, settings.token)

        def committed(answers: Sequence[Answer]) -> Sequence[Answer]:
            enrolment.confirm(now())
            return answers

        return Inbox(
            reactor,
            lambda change: self.database.write_with_room(change).addCallback(committed),
            lambda store, batch: apply(store, batch, enrolment),
        )

    def _make_engine(self, reactor: Any, now: Callable[[], float]) -> Engine:
        return Engine(
            reactor,
            self.database,
            now,
            self.judge.timing,
            self.judge.mode,
            self.judge.assess,
            notify=self.notify,
            pace_changed=self._notify_pace_changed,
        )

    def _make_page(
        self, reactor: Any, settings: PageSettings, changes: Changes, now: Callable[[], float]
    ) -> FleetPage:
        judge = self.judge.for_show
        queries = Queries(now, self._count_waiting, judge)
        return FleetPage(reactor, settings, self.database, judge, queries, changes, now)

    def _count_waiting(self) -> int:
        return sum(self.presence.waiting_now().values())

    def _notify_pace_changed(self) -> bool:
        """Call the observers; return whether there are any: only a process that signs has one."""
        for each in self.pace_observers:
            each()
        return bool(self.pace_observers)


def _make_poster(reactor: Any, settings: FleetSettings, now: Callable[[], float]) -> Poster | None:
    if settings.webhook is None:
        return None
    receiver = Receiver(settings.webhook, settings.webhook_secret)
    return Poster(reactor, make_agent(reactor), receiver, now)
