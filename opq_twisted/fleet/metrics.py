"""The metrics of the fleet, for Prometheus."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from attrs import Factory, frozen
from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection, func, select
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from opq_twisted.fleet.reports.inbox import Inbox
from opq_twisted.fleet.reports.resource import ReportResource
from opq_twisted.fleet.rollouts.rollout import Rollout, find
from opq_twisted.fleet.store.errors import StoreUnavailable
from opq_twisted.fleet.store.schema import attempt, box, rollout
from opq_twisted.fleet.store.states import RolloutState
from opq_twisted.report.codes import Outcome
from opq_twisted.trust.offer import STABLE

#: Seconds between two counts in the database, at least; and after which a count is not shown.
PERIOD, EXPIRES = 30, 300

#: Rollouts with a series of their own.
_MAX_ROLLOUTS = 50

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


@frozen(kw_only=True)
class Figures:
    """What is counted in the database."""

    #: Keys by channel and state.
    boxes: Mapping[tuple[str, str], int] = Factory(dict)
    #: Attempts by release and outcome.
    outcomes: Mapping[tuple[int, str], int] = Factory(dict)
    #: Those that are not superseded.
    rollouts: Sequence[Rollout] = ()


class FleetMetrics(Collector):
    """
    Collects the values of the reports and of the fleet when `/metrics` is requested.

    The counts in the database are those of a request before, because a count takes a while: each
    request lets them be made again.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        reports: ReportResource,
        inbox: Inbox,
        read: Callable[[Callable[[Connection], Any]], Deferred[Any]],
    ) -> None:
        """:param read: runs a function that reads the database, as `Database.read`."""
        self._clock = clock
        self._reports = reports
        self._inbox = inbox
        self._read = read
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
        """Collect the values, and let the database be counted anew."""
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
        yield from _families(self._figures)

    def _stored(self, _reports: int, seconds: float) -> None:
        self._seconds.observe(seconds)
        self._is_away = False

    async def _count(self) -> None:
        self._is_counting = True
        try:
            self._figures = await self._read(count_fleet)
            self._is_away = False
        except StoreUnavailable:
            # The inbox logs that.
            self._figures, self._is_away = Figures(), True
        except Exception:
            self._log.failure("The fleet could not be counted")
            self._figures = Figures()
        finally:
            self._is_counting, self._counted_at = False, self._clock.seconds()


def count_fleet(connection: Connection) -> Figures:
    """Count what the metrics show."""
    rollouts = find(connection, rollout.c.state != RolloutState.SUPERSEDED)[:_MAX_ROLLOUTS]
    return Figures(
        boxes=_count_boxes(connection, {STABLE, *(each.channel for each in rollouts)}),
        outcomes=_count_outcomes(connection, {each.release for each in rollouts}),
        rollouts=rollouts,
    )


def _count_boxes(connection: Connection, named: set[str]) -> Mapping[tuple[str, str], int]:
    """Count keys; a box can name any channel, and a new one in each report."""
    query = select(box.c.channel, box.c.state, func.count()).group_by(box.c.channel, box.c.state)
    counts: Counter[tuple[str, str]] = Counter()
    for channel, state, number in connection.execute(query):
        known = "unknown" if channel is None else channel if channel in named else "other"
        counts[known, state] += number
    return counts


def _count_outcomes(connection: Connection, releases: set[int]) -> Mapping[tuple[int, str], int]:
    query = (
        select(attempt.c.release, attempt.c.outcome, func.count())
        .where(attempt.c.release.in_(releases))
        .group_by(attempt.c.release, attempt.c.outcome)
    )
    counts: Counter[tuple[int, str]] = Counter()
    for release, outcome, number in connection.execute(query):
        counts[release, _outcome_label(outcome)] += number
    return counts


def _outcome_label(outcome: str | None) -> str:
    if outcome is None:
        return "under-way"
    return outcome if outcome in set(Outcome) else "other"


def _families(figures: Figures) -> Iterator[Metric]:
    boxes = GaugeMetricFamily("opq_fleet_boxes", "Keys of boxes.", labels=["channel", "state"])
    for labels, number in figures.boxes.items():
        boxes.add_metric(labels, number)
    outcomes = GaugeMetricFamily(
        "opq_fleet_outcomes", "Attempts to install a release.", labels=["release", "outcome"]
    )
    for (release, outcome), number in figures.outcomes.items():
        outcomes.add_metric([str(release), outcome], number)
    pace = GaugeMetricFamily(
        "opq_fleet_pace_bp",
        "The share of the boxes that may install a release, in hundredths of a percent.",
        labels=["channel", "release"],
    )
    held = GaugeMetricFamily(
        "opq_fleet_held", "1 while a release is held.", labels=["channel", "release"]
    )
    for each in figures.rollouts:
        pace.add_metric([each.channel, str(each.release)], each.bp)
        held.add_metric([each.channel, str(each.release)], int(each.is_held))
    yield from (boxes, outcomes, pace, held)
