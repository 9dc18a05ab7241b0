"""The metrics show the work of the inbox, and what the database says of the fleet."""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Connection
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from opq_twisted.fleet.engine.judge import Judge
from opq_twisted.fleet.metrics.collector import EXPIRES, PERIOD, FleetMetrics
from opq_twisted.fleet.reports.answer import Answer
from opq_twisted.fleet.reports.inbox import Inbox
from opq_twisted.fleet.reports.resource import ReportResource
from opq_twisted.fleet.rollouts.rollout import Rollout, add
from opq_twisted.fleet.settings import Rollouts
from opq_twisted.fleet.store.errors import StoreUnavailable
from opq_twisted.fleet.store.states import BoxState, RolloutState
from opq_twisted.fleet.webhook.post import Poster, Receiver, make_agent
from opq_twisted.fleet.webhook.sender import Sender
from tests.helpers.apply_case import ApplyCase
from tests.helpers.reporting_box import NEW, NOW, OLD, ReportingBox, attempt
from tests.helpers.store_case import on_each_database

Series = dict[tuple[str, ...], float]


@on_each_database
class FleetMetricsTests(ApplyCase):
    """A database with some boxes."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.waiting: list[tuple[Callable[[Connection], Any], Deferred[Any]]] = []
        stored = [Answer(200, "stored")]
        self.inbox = Inbox(self.clock, lambda _: succeed(stored), lambda store, batch: stored)
        self.inbox.startService()
        self.reports = ReportResource(self.clock, self.inbox, lambda: NOW, ())
        self.start()

    def start(self, mode: Rollouts = "off", sender: Sender | None = None) -> None:
        """Begin with new metrics."""
        self.metrics = FleetMetrics(
            *(self.clock, self.reports, self.inbox, self.ask, Judge(mode=mode), lambda: NOW),
            sender,
        )
        self.registry = CollectorRegistry()
        self.registry.register(self.metrics)

    def ask(self, query: Callable[[Connection], Any]) -> Deferred[Any]:
        self.waiting.append((query, Deferred()))
        return self.waiting[-1][1]

    def end_count(self) -> None:
        query, ended = self.waiting.pop(0)
        ended.callback(self.read(query))

    def series(self) -> Series:
        text = generate_latest(self.registry).decode()
        return {
            (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def counted(self) -> Series:
        """Return the series of the fleet after a count."""
        self.clock.advance(PERIOD)
        self.series()
        self.end_count()
        return {
            name: value
            for name, value in self.series().items()
            if name[0].startswith("opq_fleet") and name[0] != "opq_fleet_store_up"
        }

    def roll_out(self, release: int, state: RolloutState, channel: str = "stable") -> None:
        row = Rollout(
            channel=channel,
            release=release,
            sha256=None,
            ceiling_bp=10_000,
            bp=500,
            state=state,
            critical=False,
            was_held=False,
            announced_at=NOW,
            since=NOW,
        )
        self.write(lambda store: add(store, row))

    def test_reports(self) -> None:
        """Answers are counted by their result, and batches by their seconds."""
        self.reports.results["stored"] += 2
        self.reports.results["forged"] += 1
        self.inbox.put(ReportingBox().send())
        series = self.series()
        self.assertEqual(series["opq_reports_total", "stored"], 2)
        self.assertEqual(series["opq_reports_total", "forged"], 1)
        self.assertEqual(series["opq_reports_batch_seconds_count",], 1)
        self.assertEqual(series["opq_reports_waiting",], 0)
        self.assertEqual(series["opq_fleet_store_up",], 1)

    def test_boxes(self) -> None:
        """Keys are counted by channel and state."""
        boxes = [ReportingBox(number) for number in range(3)]
        self.apply(*(each.send() for each in boxes), ReportingBox(9, channel="x").send())
        self.change(boxes[0].key, state=BoxState.DISTRUSTED)
        self.change(boxes[1].key, channel=None, state=BoxState.ADMITTED)
        self.assertEqual(
            self.counted(),
            {
                ("opq_fleet_boxes", "stable", "known"): 1,
                ("opq_fleet_boxes", "stable", "distrusted"): 1,
                ("opq_fleet_boxes", "unknown", "admitted"): 1,
                ("opq_fleet_boxes", "other", "known"): 1,
            },
        )

    def test_many_channels(self) -> None:
        """Boxes that invent channels make no series: only the metadata names channels."""
        self.roll_out(NEW, RolloutState.DONE, channel="beta")
        names = ["stable", "stable", "beta", "beta", *(f"c{number}" for number in range(9))]
        self.apply(*(ReportingBox(channel=name).send(network="") for name in names))
        self.assertEqual(
            {name: value for name, value in self.counted().items() if "boxes" in name[0]},
            {
                ("opq_fleet_boxes", "stable", "known"): 2,
                ("opq_fleet_boxes", "beta", "known"): 2,
                ("opq_fleet_boxes", "other", "known"): 9,
            },
        )

    def test_outcomes(self) -> None:
        """Attempts are counted by outcome, those of the releases that channels name."""
        self.roll_out(OLD, RolloutState.SUPERSEDED)
        self.roll_out(NEW, RolloutState.BAKING)
        ended = [
            attempt(outcome=outcome, stage="idle")
            for outcome in ("updated", "updated", "returned", "from-the-future")
        ]
        older = attempt(release=OLD, outcome="updated", stage="idle")
        self.apply(ReportingBox().send(attempts=(*ended, attempt(), older)))
        self.assertEqual(
            {name: value for name, value in self.counted().items() if "outcomes" in name[0]},
            {
                ("opq_fleet_outcomes", "updated", str(NEW)): 2,
                ("opq_fleet_outcomes", "returned", str(NEW)): 1,
                ("opq_fleet_outcomes", "other", str(NEW)): 1,
                ("opq_fleet_outcomes", "under-way", str(NEW)): 1,
            },
        )

    def test_rollouts(self) -> None:
        """The pace of each release that a channel names, and whether it is held."""
        self.roll_out(OLD, RolloutState.SUPERSEDED)
        self.roll_out(NEW, RolloutState.HELD)
        self.assertEqual(
            self.counted(),
            {
                ("opq_fleet_pace_bp", "stable", str(NEW)): 500,
                ("opq_fleet_held", "stable", str(NEW)): 1,
            },
        )

    def test_not_counted_too_often(self) -> None:
        """The database is counted once in a while, and once at a time."""
        self.series()
        self.clock.advance(PERIOD)
        self.series()
        self.assertEqual(len(self.waiting), 1)
        self.end_count()
        self.series()
        self.assertEqual(len(self.waiting), 0)
        self.clock.advance(PERIOD)
        self.series()
        self.assertEqual(len(self.waiting), 1)

    def test_old_counts(self) -> None:
        """A count of long ago is not shown as if it were one of now."""
        self.apply(ReportingBox().send())
        self.assertEqual(len(self.counted()), 1)
        self.clock.advance(EXPIRES + 1)
        self.assertNotIn(("opq_fleet_boxes", "stable", "known"), self.series())

    def test_away(self) -> None:
        """While the database is away, that is told, and nothing is counted."""
        self.apply(ReportingBox().send())
        self.counted()
        self.clock.advance(PERIOD)
        self.series()
        self.waiting.pop()[1].errback(StoreUnavailable("It is away."))
        series = self.series()
        self.assertEqual(series["opq_fleet_store_up",], 0)
        self.assertNotIn(("opq_fleet_boxes", "stable", "known"), series)
        self.assertEqual(len(self.counted()), 1)
        self.assertEqual(self.series()["opq_fleet_store_up",], 1)

    def test_back(self) -> None:
        """A report that is stored shows at once that the database is back."""
        self.series()
        self.waiting.pop()[1].errback(StoreUnavailable("It is away."))
        self.assertEqual(self.series()["opq_fleet_store_up",], 0)
        self.inbox.put(ReportingBox().send())
        self.assertEqual(self.series()["opq_fleet_store_up",], 1)

    def test_webhook(self) -> None:
        """What became of messages, and whether the receiver took the last one."""
        receiver = Receiver("https://chat.example.org/hooks/s3same", None)
        poster = Poster(self.clock, make_agent(self.clock), receiver, lambda: NOW)
        sender = Sender(self.clock, lambda _: Deferred(), poster, lambda: NOW)
        self.start(sender=sender)
        sender.results["delivered"] += 2
        sender.is_up = False
        series = self.series()
        self.assertEqual(series["opq_fleet_webhook_total", "delivered"], 2)
        self.assertEqual(series["opq_fleet_webhook_total", "given-up"], 0)
        self.assertEqual(
            (series["opq_fleet_webhook_up",], series["opq_fleet_webhook_waiting",]), (0, 0)
        )
