"""What the engine knows of a rollout, from the rows of the database."""

from typing import Any

from sqlalchemy import Connection, select, update

from opq_twisted.fleet.engine.assessment import Assessment, PreviousRelease
from opq_twisted.fleet.engine.control_group import Controls
from opq_twisted.fleet.engine.decision import Action
from opq_twisted.fleet.engine.gather import assess
from opq_twisted.fleet.engine.outages import note_fleet, note_server_outage
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.store.schema import box, outage, rollout
from opq_twisted.fleet.store.states import BoxState, RolloutState
from tests.helpers.fleet_rows import NEW, NOW, OLD, add_attempt, add_box, add_rollout
from tests.helpers.store_case import StoreCase, on_each_database

_HOUR, _DAY = 3600.0, 86400.0

#: When a box that is silent now was heard last.
_LONG_AGO = NOW - 7 * _HOUR


class GatherCase(StoreCase):
    """A release that was announced two days ago, and has been at 5 % for a day and a half."""

    def setUp(self) -> None:
        super().setUp()
        self.number = 0
        self.write(lambda store: self.make_rollout(store))

    def make_rollout(self, store: Connection) -> None:
        """Add the rollout."""
        add_rollout(store, announced_at=NOW - 2 * _DAY, since=NOW - 1.5 * _DAY)

    def add(
        self,
        boxes: int = 1,
        *attempts: tuple[str | None, str | None],
        received: float = NOW - 900,
        stage: str | None = None,
        release: int = NEW,
        box_release: int = OLD,
        **columns: Any,
    ) -> None:
        """Add boxes, each with these attempts to install a release."""

        def change(store: Connection) -> None:
            for _ in range(boxes):
                self.number += 1
                row = add_box(store, self.number, release=box_release, **columns)
                for index, (outcome, reason) in enumerate(attempts):
                    more = {} if stage is None else {"stage": stage}
                    add_attempt(
                        store,
                        row,
                        outcome,
                        reason,
                        number=self.number * 100 + index,
                        received=received,
                        release=release,
                        **more,
                    )

        self.write(change)

    def add_silent(self, boxes: int = 1, **columns: Any) -> None:
        """Add boxes that fell silent when they were about to install."""
        self.add(boxes, (None, None), **{"last_seen": _LONG_AGO, **columns})

    def assess(self, now: float = NOW) -> Assessment:
        """Assess the only rollout."""
        (found,) = self.read(lambda store: assess(store, now, Timing()))
        return found

    def counts(self, now: float = NOW) -> tuple[int, dict[str, int], int, int]:
        """Return well, bad by the reason, under way and unclear."""
        found = self.assess(now).evidence
        return found.well, dict(found.bad_by_reason), found.under_way, found.unclear


@on_each_database
class CountedTests(GatherCase):
    """Which boxes count, and as what."""

    def test_nothing(self) -> None:
        """A rollout that nobody has tried is assessed, too."""
        self.assertEqual(self.counts(), (0, {}, 0, 0))
        self.assertEqual(self.assess().next_bp, 2000)

    def test_results(self) -> None:
        """Boxes are well, bad by their reason, or under way; other failures are nothing."""
        self.add(2, ("updated", None))
        self.add(2, ("returned", "unhealthy-service"))
        self.add(1, ("returned", None))
        self.add(1, ("failed", "install-status"))
        self.add(4, ("failed", "download"))
        self.add(3, (None, None))
        bad = {"unhealthy-service": 2, "returned": 1, "install-status": 1}
        self.assertEqual(self.counts(), (2, bad, 3, 0))
        self.assertIs((self.assess().decision or self.fail()).action, Action.HOLD)

    def test_worst(self) -> None:
        """A box counts once, by its worst attempt; a failed download gives way to any other."""
        self.add(1, ("updated", None), ("returned", "rescued"), ("updated", None))
        self.add(1, ("failed", "download"), ("updated", None))
        self.add(1, ("failed", "no-room"), (None, None))
        self.assertEqual(self.counts(), (1, {"rescued": 1}, 1, 0))

    def test_keys(self) -> None:
        """Young keys count only if they are admitted, distrusted ones never, replaced ones do."""
        bad = ("returned", "rescued")
        young = NOW - 2 * _DAY - _DAY + 1
        self.add(100, bad, first_seen=young)
        self.add(1, bad, first_seen=young, state=BoxState.ADMITTED)
        self.add(1, bad, first_seen=young, state=BoxState.REPLACED)
        self.add(1, bad, first_seen=young - 1)
        self.add(1, bad, state=BoxState.DISTRUSTED)
        self.add(1, bad, state=BoxState.GONE)
        self.add(1, bad, state=BoxState.REPLACED)
        self.assertEqual(self.counts(), (0, {"rescued": 3}, 0, 0))

    def test_channels(self) -> None:
        """A box counts in the channel that it follows now."""
        self.add(1, ("returned", "rescued"))
        self.add(1, ("returned", "rescued"), channel="beta")
        self.assertEqual(self.counts(), (0, {"rescued": 1}, 0, 0))
        self.write(lambda store: store.execute(update(box).values(channel="stable")))
        self.assertEqual(self.counts(), (0, {"rescued": 2}, 0, 0))

    def test_clock_was_ahead(self) -> None:
        """A release that was announced in the future lets no young keys count."""
        self.write(lambda store: store.execute(update(rollout).values(announced_at=NOW + 9 * _DAY)))
        self.add(1, ("returned", "rescued"), first_seen=NOW - 2 * _DAY)
        self.add(9, ("returned", "rescued"), first_seen=NOW - _HOUR)
        self.assertEqual(self.counts(), (0, {"rescued": 1}, 0, 0))

    def test_too_early(self) -> None:
        """The boxes that began after the last bad one are known, unless they had tried before."""
        self.add(3, (None, None), received=NOW - 60)
        self.assertEqual(self.assess().evidence.too_early, 0)
        self.add(1, ("returned", "rescued"), received=NOW - 300)
        self.add(2, (None, None), received=NOW - 400)
        self.add(1, ("failed", "interrupted"), (None, None), received=NOW - 200)
        self.add(1, (None, None), received=NOW - 60, channel="beta")
        self.add(1, (None, None), received=NOW - 60, first_seen=NOW)
        self.add(5, ("updated", None), received=NOW - 60)
        found = self.assess().evidence
        self.assertEqual((found.boxes, found.too_early, found.tested), (12, 3, 9))
        self.add_silent(1, received=_LONG_AGO)
        self.add(9, last_seen=NOW - 60)
        self.assertEqual(self.assess().evidence.too_early, 3)

    def test_usual_silence(self) -> None:
        """Silence is compared with that of other boxes at the same time, not six hours ago."""
        self.add(97, last_seen=NOW - 60)
        self.add(2, last_seen=NOW - 9 * _HOUR, due=NOW - 6.5 * _HOUR)
        self.assertEqual(self.assess().evidence.test.accepted, 0.01)
        self.add_silent()
        self.assertEqual(self.assess().evidence.bad, 1)
        self.assertEqual(self.assess().evidence.test.accepted, 0.02)

    def test_resumed(self) -> None:
        """After a release was resumed only newer attempts count; the older ones are still shown."""
        self.add(3, ("returned", "rescued"), received=NOW - _HOUR)
        self.add(1, ("returned", "fell-over"), received=NOW - 60)
        self.acknowledge(NOW - 600)
        self.assertEqual(self.counts(), (0, {"fell-over": 1}, 0, 0))
        self.assertEqual(sum(each.boxes for each in self.assess().results), 4)

    def test_superseded(self) -> None:
        """Only rollouts that a channel still follows are judged, and of these the wanted ones."""
        self.write(lambda store: add_rollout(store, OLD, state=RolloutState.SUPERSEDED))
        self.assess()
        self.assertEqual(self.read(lambda store: assess(store, NOW, Timing(), only=[OLD])), [])

    def test_held(self) -> None:
        """A held rollout is assessed without a decision."""
        self.write(lambda store: store.execute(update(rollout).values(state=RolloutState.HELD)))
        self.add(1, ("returned", "rescued"))
        self.assertIsNone(self.assess().decision)
        self.assertEqual(self.counts(), (0, {"rescued": 1}, 0, 0))

    def acknowledge(self, at: float) -> None:
        """Resume the rollout."""
        self.write(lambda store: store.execute(update(rollout).values(acknowledged_at=at)))


@on_each_database
class BeforeTests(GatherCase):
    """What the bad boxes are compared with."""

    def add_before(self, release: int, bad: int, well: int, **columns: Any) -> None:
        """Add a superseded rollout with these outcomes."""
        columns = {"since": NOW - 2 * _DAY, "announced_at": NOW - 9 * _DAY, **columns}
        self.write(
            lambda store: add_rollout(store, release, state=RolloutState.SUPERSEDED, **columns)
        )
        for boxes, outcome, reason in (
            (bad, "returned", "rescued"),
            (well, "updated", None),
        ):
            self.add(boxes, (outcome, reason), release=release)

    def test_none(self) -> None:
        """Without a release before, 1 % is accepted."""
        found = self.assess()
        self.assertIsNone(found.before)
        self.assertEqual(found.evidence.test.accepted, 0.01)

    def test_last(self) -> None:
        """It is the last one that was superseded, was not held, and has outcomes."""
        self.add_before(OLD - 2, 0, 30, since=NOW - 5 * _DAY)
        self.add_before(OLD - 1, 1, 9, since=NOW - 4 * _DAY)
        self.add_before(OLD, 5, 5, since=NOW - 3 * _DAY, was_held=True)
        self.add_before(OLD + 1, 0, 0)
        found = self.assess()
        self.assertEqual(found.before, PreviousRelease(release=OLD - 1, bad=1, boxes=10))
        self.assertEqual(found.evidence.test.accepted, 0.02)


@on_each_database
class SilenceTests(GatherCase):
    """Boxes that fall silent."""

    def test_silent(self) -> None:
        """A silent box is bad if others were heard since."""
        self.add(20)
        self.add_silent(3)
        self.assertEqual(self.counts(), (0, {"silent": 3}, 0, 0))

    def test_normal(self) -> None:
        """What is normal depends on the boxes that fall silent by themselves, if silence counts."""
        self.add(98)
        self.add(2, last_seen=_LONG_AGO, due=NOW - 4 * _HOUR)
        self.add(1, ("returned", "rescued"))
        self.assertEqual(self.assess().evidence.test.accepted, 0.01)
        self.add_silent(1)
        found = self.assess().evidence
        self.assertEqual(found.bad_by_reason, {"rescued": 1, "silent": 1})
        self.assertAlmostEqual(found.test.accepted, 0.02, places=3)

    def test_not_yet(self) -> None:
        """A box is silent after six hours, and only if it was about to install."""
        self.add(20)
        self.add_silent(1, last_seen=NOW - 6 * _HOUR + 1)
        self.add_silent(1, stage="downloading")
        self.assertEqual(self.counts(), (0, {}, 2, 0))

    def test_replaced(self) -> None:
        """A box that was installed anew leaves its silence with its old key."""
        self.add(20)
        self.add_silent(1, state=BoxState.REPLACED)
        self.assertEqual(self.counts(), (0, {"silent": 1}, 0, 0))

    def test_too_few(self) -> None:
        """Four boxes are too few to compare with."""
        self.add(4)
        self.add_silent(3)
        self.assertEqual(self.counts(), (0, {}, 3, 3))

    def test_controls(self) -> None:
        """Boxes with young keys, of another channel, or about to install are not compared with."""
        self.add(20, first_seen=NOW - _DAY)
        self.add(20, channel="beta")
        self.add(20, (None, None))
        self.add(20, state=BoxState.REPLACED)
        self.add_silent(3)
        self.assertEqual(self.counts(), (0, {}, 23, 3))

    def test_network(self) -> None:
        """If others that were to report did not either, nobody can tell; later they are heard."""
        due = NOW - 4 * _HOUR
        self.add(20)
        self.add(10, last_seen=_LONG_AGO, due=due)
        self.add_silent(3)
        self.assertEqual(self.counts(), (0, {}, 3, 3))
        heard = update(box).where(box.c.due == due).values(last_seen=NOW - 60, due=NOW + 60)
        self.write(lambda store: store.execute(heard))
        self.assertEqual(self.counts(), (0, {"silent": 3}, 0, 0))

    def test_no_promise(self) -> None:
        """A row of an older program has promised a report within a day."""
        self.add(20)
        self.add(10, last_seen=_LONG_AGO)
        self.add_silent(3)
        self.assertEqual(self.counts(), (0, {"silent": 3}, 0, 0))
        later = NOW + 19 * _HOUR
        heard = update(box).where(box.c.last_seen == NOW - 60).values(last_seen=later - 60)
        self.write(lambda store: store.execute(heard))
        self.assertEqual(self.counts(later), (0, {}, 3, 3))


@on_each_database
class OutageTests(GatherCase):
    """The time in which no box could be heard."""

    def test_own_downtime(self) -> None:
        """After twelve hours nothing is silent until the boxes have had two hours, and six."""
        down, up = NOW - 12 * _HOUR, NOW
        self.add(20, last_seen=down - 60)
        self.add_silent(3, last_seen=down - 5 * _HOUR)
        self.write(lambda store: note_server_outage(store, down, up))
        self.assertEqual(self.counts(up + 60), (0, {}, 3, 0))
        self.hear(up + 300)
        self.assertEqual(self.counts(up + 1.9 * _HOUR), (0, {}, 3, 3))
        self.assertEqual(self.counts(up + 2 * _HOUR), (0, {"silent": 3}, 0, 0))

    def test_downtime_is_no_silence(self) -> None:
        """Boxes that were heard right before it have six hours after it."""
        down, up = NOW - 12 * _HOUR, NOW
        self.add(20, last_seen=down - 60)
        self.add_silent(3, last_seen=down - 60)
        self.write(lambda store: note_server_outage(store, down, up))
        self.hear(up + 2 * _HOUR)
        self.assertEqual(self.counts(up + 5.9 * _HOUR), (0, {}, 3, 0))
        self.assertEqual(self.counts(up + 6 * _HOUR), (0, {"silent": 3}, 0, 0))

    def test_explicit(self) -> None:
        """Bad outcomes count right after an outage, and a step does not go on meanwhile."""
        self.add(3, ("returned", "rescued"))
        self.write(lambda store: note_server_outage(store, NOW - 20 * _HOUR, NOW))
        found = self.assess()
        self.assertEqual(found.evidence.bad, 3)
        self.assertEqual(found.circumstances.baked, 16 * _HOUR)
        self.assertFalse(found.circumstances.is_settled)

    def test_fleet(self) -> None:
        """The internet is out for a third: that is noticed, and lasts until it is over."""
        self.add(20, last_seen=NOW - 60)
        self.add(10, last_seen=NOW - 5 * _HOUR, due=NOW - 2 * _HOUR)
        self.add_silent(3)
        found = self.assess()
        self.assertEqual(found.controls, Controls(20, 10))
        self.assertTrue(found.circumstances.is_fleet_silent)
        self.assertEqual(found.evidence.bad, 0)
        self.assertTrue(self.note(found, NOW))
        self.assertFalse(self.note(found, NOW))
        later = NOW + 8 * _HOUR
        self.hear(later - 60, 20)
        self.assertTrue(self.assess(later).circumstances.is_fleet_silent)
        self.hear(later - 60, 27)
        self.assertTrue(self.assess(later).circumstances.is_fleet_silent)
        self.hear(later - 60, 30)
        found = self.assess(later)
        self.assertFalse(found.circumstances.is_fleet_silent)
        self.assertTrue(self.note(found, later))
        self.assertFalse(self.assess(later + 60).circumstances.is_settled)
        self.assertEqual(self.counts(later + 60), (0, {}, 3, 0))
        self.hear(later + 7 * _HOUR, 30)
        self.assertEqual(self.counts(later + 7 * _HOUR), (0, {"silent": 3}, 0, 0))

    def test_all_silent(self) -> None:
        """While no box at all is heard an outage does not end."""
        self.add(20, last_seen=NOW - 5 * _HOUR, due=NOW - 2 * _HOUR)
        self.assertTrue(self.note(self.assess(), NOW))
        self.assertTrue(self.assess(NOW + 30 * _DAY).circumstances.is_fleet_silent)

    def test_turns(self) -> None:
        """Keys that report in turns do not let it begin and end all the time."""
        self.add(30)
        noted = []
        for minute in range(0, 4 * 60, 10):
            now = NOW + 60 * minute
            self.hear(now - 60, 30)
            if minute % 20 == 0:
                self.hear(now - 5 * _HOUR, 5)
            if self.note(self.assess(now), now):
                noted.append(minute)
        self.assertEqual(noted, [0, 130, 140])

    def test_two_boxes(self) -> None:
        """Two missing boxes are no outage."""
        self.add(6)
        self.add(2, last_seen=NOW - 5 * _HOUR, due=NOW - 2 * _HOUR)
        self.assertFalse(self.assess().circumstances.is_fleet_silent)

    def test_channels(self) -> None:
        """An outage of another channel is none of this one."""
        self.write(lambda store: note_fleet(store, "beta", True, began=NOW - 9, now=NOW))
        self.assertTrue(self.assess().circumstances.is_settled)

    def test_clock_was_ahead(self) -> None:
        """Outages that a clock noted in the future are none."""
        self.write(lambda store: note_server_outage(store, NOW - _HOUR, NOW + 900 * _DAY))
        self.write(lambda store: note_server_outage(store, NOW + _HOUR, NOW + 2 * _HOUR))
        self.assertTrue(self.assess().circumstances.is_settled)

    def test_old(self) -> None:
        """Outages are forgotten after 60 days."""
        self.write(lambda store: note_server_outage(store, NOW - 70 * _DAY, NOW - 61 * _DAY))
        self.write(lambda store: note_server_outage(store, NOW - 2, NOW - 1))
        kept = self.read(lambda store: store.scalars(select(outage.c.began)).all())
        self.assertEqual(kept, [NOW - 2])

    def hear(self, at: float, boxes: int = 20) -> None:
        """Let the first boxes report."""
        heard = update(box).where(box.c.id <= boxes).values(last_seen=at, due=at + 3 * _HOUR)
        self.write(lambda store: store.execute(heard))

    def note(self, found: Assessment, now: float) -> bool:
        """Note as the engine does whether the channel is silent."""
        is_silent = found.circumstances.is_fleet_silent
        return self.write(
            lambda store: note_fleet(store, "stable", is_silent, began=now - 4 * _HOUR, now=now)
        )


@on_each_database
class DrawnTests(GatherCase):
    """Boxes whose turn it is."""

    def test_each(self) -> None:
        """They install automatically and do not wait for the pace, or have tried the release."""
        self.add(4)
        self.add(2, waiting="window")
        self.add(3, ("updated", None), box_release=NEW)
        self.add(1, ("returned", "rescued"), waiting="refused")
        self.add(1, ("failed", "download"), waiting="turn")
        self.add(1, (None, None), waiting="held", install="click")
        for columns in (
            {"waiting": "turn"},
            {"waiting": "held"},
            {"install": "click"},
            {"box_release": NEW + 1},
            {"last_seen": NOW - 2 * _DAY},
            {"first_seen": NOW - _DAY},
            {"state": BoxState.REPLACED},
            {"channel": "beta"},
        ):
            self.add(1, **columns)
        found = self.assess().evidence
        self.assertEqual((found.drawn, found.ended), (12, 5))
