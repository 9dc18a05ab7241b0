"""Collects the metrics of the fleet when Prometheus asks for them."""

from collections.abc import Callable, Iterator

from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from opq_twisted.fleet.engine.judge import Judge
from opq_twisted.fleet.metrics.families import families
from opq_twisted.fleet.metrics.figures import Figures, count_fleet
from opq_twisted.fleet.reports.inbox import Inbox
from opq_twisted.fleet.reports.resource import ReportResource
from opq_twisted.fleet.store.errors import StoreUnavailable
from opq_twisted.fleet.webhook.sender import Sender

#: The database is counted at most once in so many seconds.
PERIOD = 30

#: A count that is older than so many seconds is not shown.
EXPIRES = 300

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class FleetMetrics(Collector):
    """
    Collects the values of the reports and of the fleet when `/metrics` is requested.

    Counting the database takes a while. So each request starts a count, and gets the result of an
    earlier one.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        reports: ReportResource,
        inbox: Inbox,
        read: Callable[[Callable[[Connection], Figures]], Deferred[Figures]],
        judge: Judge,
        now: Callable[[], float],
        sender: Sender | None = None,
    ) -> None:
        """
        Prepare the metrics.

        :param read: runs a function that reads the database, as `Database.read`.
        :param judge: judges the rollouts.
        :param now: gives the time of day, in seconds since the epoch.
        :param sender: sends the messages for the webhook; None without one.
        """
        self._clock = clock
        self._reports = reports
        self._inbox = inbox
        self._read = read
        self._judge = judge
        self._now = now
        self._sender = sender
        self._seconds = Histogram(
            "opq_reports_batch_seconds",
            "Seconds until a batch of reports was stored.",
            buckets=_BUCKETS,
            registry=None,
        )
        inbox.observers.append(self._stored)
        self._figures = Figures()
        self._counted_at = -float(EXPIRES)
        self._is_counting = False
        self._is_away = False

    def collect(self) -> Iterator[Metric]:
        """Return the present values, and start a new count of the database."""
        now = self._clock.seconds()
        if now - self._counted_at > EXPIRES:
            self._figures = Figures()
        if not self._is_counting and now - self._counted_at >= PERIOD:
            Deferred.fromCoroutine(self._count())
        results = CounterMetricFamily("opq_reports", "Reports answered.", labels=["result"])
        for result, count in self._reports.results.items():
            results.add_metric([result], count)
        yield results
        yield GaugeMetricFamily(
            "opq_reports_waiting", "Reports that are not answered yet.", len(self._inbox)
        )
        yield from self._seconds.collect()
        yield GaugeMetricFamily(
            "opq_fleet_store_up",
            "1 while the database of the fleet can be used.",
            int(not (self._inbox.is_away or self._is_away)),
        )
        yield from families(self._figures, self._judge.mode)
        if self._sender is not None:
            yield from self._collect_webhook(self._sender)

    def _collect_webhook(self, sender: Sender) -> Iterator[Metric]:
        results = CounterMetricFamily(
            "opq_fleet_webhook",
            "Tries to send a message to the webhook, and messages that were not delivered.",
            labels=["result"],
        )
        for result, count in sender.results.items():
            results.add_metric([result], count)
        yield results
        yield GaugeMetricFamily(
            "opq_fleet_webhook_up",
            "0 while the receiver of the webhook has not taken the last message.",
            int(sender.is_up),
        )
        yield GaugeMetricFamily(
            "opq_fleet_webhook_waiting",
            "Messages for the webhook that are not delivered yet.",
            self._figures.messages,
        )

    def _stored(self, _reports: int, seconds: float) -> None:
        self._seconds.observe(seconds)
        self._is_away = False

    async def _count(self) -> None:
        self._is_counting = True
        try:
            self._figures = await self._read(
                lambda connection: count_fleet(connection, self._judge, self._now())
            )
            self._is_away = False
        except StoreUnavailable:
            # The inbox logs that.
            self._figures, self._is_away = Figures(), True
        except Exception:
            self._log.failure("The fleet could not be counted")
            self._figures = Figures()
        finally:
            self._is_counting, self._counted_at = False, self._clock.seconds()
