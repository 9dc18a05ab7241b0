"""Tests of the engine over days: what it does in which mode, and what it waits for."""

from functools import partial
from threading import Thread

from sqlalchemy import select
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from opq_twisted.fleet.engine import service
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.queries.outcomes import count_results
from opq_twisted.fleet.queries.silence import Silence
from opq_twisted.fleet.rollouts.orders import hold, resume, widen
from opq_twisted.fleet.settings import Rollouts
from opq_twisted.fleet.store.errors import StoreUnavailable
from opq_twisted.fleet.store.schema import outage
from opq_twisted.fleet.store.states import RolloutState
from opq_twisted.fleet.webhook.outbox import Event
from opq_twisted.fleet.widen_hours import WidenHours
from opq_twisted.trust.pace import ALL
from tests.helpers.engine_case import DAY, HOUR, NOTE, EngineCase
from tests.helpers.fleet_rows import NEW, NOW, OLD, add_box
from tests.helpers.store_case import on_each_database


@on_each_database
class AutoTests(EngineCase):
    """`--rollouts auto`."""

    def test_good_release(self) -> None:
        """A good release goes to all boxes in steps of a day."""
        self.announce()
        shares = [self.rollout().bp]
        for _ in range(4):
            self.update_drawn()
            self.pass_hours(24)
            shares.append(self.rollout().bp)
        self.assertEqual(shares, [1250, 2000, 5000, ALL, ALL])
        self.assertEqual(self.rollout().state, RolloutState.DONE)
        self.assertEqual(self.words(), ["engine: widen"] * 3)
        self.assertEqual(self.paces_changed, 3)
        times = [(row.at - NOW) / HOUR for row in self.audit()]
        self.assertEqual(times, [24, 48, 72])
        self.assertEqual(self.audit()[0].change, "From baking at 12.5 % to baking at 20 %.")
        self.assertIn("0 of 5 boxes are bad, 5 well, 0 under way.", self.audit()[0].because)
        self.assertEqual(self.rollout().sentence, self.audit()[-1].because)
        self.assertEqual(
            [event for event, _ in self.told], [Event.WIDENED, Event.WIDENED, Event.DONE]
        )
        self.assertIn("was widened from 12.5 % to 20 %. 0 of 5 boxes", self.told[0][1])

    def test_bad_release(self) -> None:
        """The first bad box is told; the third of five holds the release, and nothing else does."""
        self.announce()
        for number in (1, 2):
            self.install([number], "returned", "unhealthy-service")
            self.pass_hours(2)
        self.assertEqual(self.words(), ["engine: first-bad"])
        self.assertEqual(self.rollout().state, RolloutState.BAKING)
        self.install([3], "returned", "fell-over")
        self.install([4, 5], "updated")
        self.pass_hours(30)
        self.assertEqual(self.words(), ["engine: first-bad", "engine: hold"])
        held, row = self.rollout(), self.audit()[-1]
        self.assertEqual((held.state, held.bp), (RolloutState.HELD, 1250))
        self.assertEqual(row.change, "From baking at 12.5 % to held at 12.5 %.")
        self.assertIn("3 of 5 boxes are bad (unhealthy-service 2, fell-over 1)", row.because)
        self.assertEqual(held.sentence, row.because)
        self.assertEqual([event for event, _ in self.told], [Event.FIRST_BAD, Event.HELD])
        self.assertIn("was held at 12.5 %. 3 of 5 boxes are bad", self.told[1][1])
        self.assertIn(f"opq-fleet resume {NEW}.", self.told[1][1])
        self.assertEqual(self.paces_changed, 1)

    def test_done(self) -> None:
        """A release that is out to all boxes is still held."""
        self.announce()
        self.order(widen, ALL)
        self.install([1, 2, 3], "failed", "archive")
        self.pass_hours(1)
        self.assertEqual(self.rollout().state, RolloutState.HELD)

    def test_resumed(self) -> None:
        """A resumed release counts from zero, and is held again for new reasons only."""
        self.announce()
        self.install([1, 2, 3], "returned", "fell-over")
        self.pass_hours(1)
        self.order(resume)
        self.pass_hours(3)
        self.assertEqual(self.rollout().state, RolloutState.BAKING)
        counted = self.read(lambda store: count_results(store, NEW, "stable", Silence(0)))
        self.assertEqual([(each.outcome, each.boxes) for each in counted], [("returned", 3)])
        self.install([4, 5, 6], "returned", "fell-over")
        self.pass_hours(1)
        self.assertEqual(
            self.words(), ["engine: hold", "anna: resume", "engine: hold"], self.audit()
        )

    def test_held_by_a_person(self) -> None:
        """A hold by a person stays that person's, whatever the boxes report."""
        self.announce()
        self.order(hold)
        self.install([1, 2, 3], "returned", "fell-over")
        self.pass_hours(30)
        self.assertEqual(self.words(), ["anna: hold"])
        self.assertEqual(self.rollout().sentence, NOTE.because)

    def test_widened_by_a_person(self) -> None:
        """A step that a person has begun lasts a day, too."""
        self.announce()
        self.update_drawn()
        self.pass_hours(10)
        self.order(widen)
        self.update_drawn()
        self.pass_hours(23)
        self.assertEqual(self.rollout().bp, 2000)
        self.pass_hours(1)
        self.assertEqual(self.rollout().bp, 5000)

    def test_inconclusive(self) -> None:
        """If the numbers are neither good nor bad, a person is asked once a step."""
        self.announce()
        self.install([1, 2], "returned", "fell-over")
        self.install([3, 4, 5], "updated")
        self.pass_hours(40)
        self.assertEqual(self.words(), ["engine: first-bad", "engine: ask"])
        self.assertEqual([event for event, _ in self.told], [Event.FIRST_BAD, Event.INCONCLUSIVE])
        self.order(widen)
        self.install([6, 7, 8], "updated")
        self.pass_hours(40)
        self.assertEqual(self.words()[2:], ["anna: widen", "engine: ask"])

    def test_superseded(self) -> None:
        """A newer release takes the place of one about which somebody was asked."""
        self.announce(OLD)
        self.install([1, 2], "returned", "fell-over", to=OLD)
        self.pass_hours(30)
        self.announce()
        self.update_drawn()
        self.pass_hours(24)
        self.assertEqual(self.rollout(OLD).state, RolloutState.SUPERSEDED)
        self.assertEqual(self.rollout().bp, 2000)
        self.assertEqual(self.words(), ["engine: first-bad", "engine: ask", "engine: widen"])
        self.assertEqual(self.audit()[-1].release, NEW)

    def test_more_is_signed(self) -> None:
        """A release goes as far as it was signed; when more is signed, it goes on by steps."""
        self.announce(ceiling=2000)
        for _ in range(3):
            self.update_drawn()
            self.pass_hours(25)
        self.assertEqual(self.rollout().state, RolloutState.DONE)
        self.announce()
        self.pass_hours(23)
        self.assertEqual((self.rollout().state, self.rollout().bp), (RolloutState.BAKING, 2000))
        self.pass_hours(1)
        self.assertEqual(self.rollout().bp, 5000)

    def test_less_is_signed(self) -> None:
        """A rollout whose signed share was lowered stays there, and nobody is asked."""
        self.announce()
        self.order(widen, 5000)
        self.announce(ceiling=1000)
        self.install(range(1, 5), "updated")
        self.pass_hours(50)
        self.assertEqual((self.rollout().bp, self.words()), (1000, ["anna: widen"]))

    def test_other_bytes(self) -> None:
        """Bad boxes with other bytes under the same version do not count."""
        self.announce()
        self.install([1, 2, 3], "returned", "fell-over")
        self.announce(sha256="cd" * 32)
        self.pass_hours(3)
        self.assertEqual(self.words(), [])

    def test_new_keys_not_counted(self) -> None:
        """A release is held, and signed so, also if the new keys cannot be counted then."""

        def fail(*_: object) -> None:
            raise StoreUnavailable("The database of the fleet took too long.")

        self.patch(service, "tell_new_keys", fail)
        self.announce()
        self.install([1, 2, 3], "returned", "fell-over")
        self.pass_hours(1)
        self.assertTrue(self.rollout().is_held)
        self.assertEqual(self.paces_changed, 1)

    def test_new_keys(self) -> None:
        """Keys that nobody has admitted are told, at most once a day."""
        self.pass_hours(2)
        self.assertEqual(self.told, [])
        self.write(lambda store: add_box(store, 41, first_seen=self.time))
        self.pass_hours(30)
        self.assertEqual(self.words(), ["engine: enrolment"])
        self.assertIn("A new key of a box has come in.", self.told[0][1])


@on_each_database
class OtherModeTests(EngineCase):
    """`--rollouts ask` and `observe`."""

    def switch(self, mode: Rollouts) -> None:
        self.mode = mode
        self.engine = self.make_engine()

    def test_ask(self) -> None:
        """With `ask` a person is asked once a step to widen; bad releases are held."""
        self.switch("ask")
        self.announce()
        self.update_drawn()
        self.pass_hours(50)
        self.assertEqual((self.rollout().bp, self.words()), (1250, ["engine: ask"]))
        self.assertEqual([event for event, _ in self.told], [Event.READY])
        self.order(widen)
        self.update_drawn()
        self.pass_hours(25)
        self.assertEqual(self.words()[1:], ["anna: widen", "engine: ask"])
        self.install([10, 11, 12, 13], "returned", "fell-over")
        self.pass_hours(1)
        self.assertTrue(self.rollout().is_held)

    def test_observe(self) -> None:
        """With `observe` the audit says once that a release would be held, and nothing is done."""
        self.switch("observe")
        self.announce()
        self.install([1, 2, 3], "returned", "fell-over")
        self.pass_hours(30)
        self.assertEqual(self.rollout().state, RolloutState.DONE)
        self.assertEqual(self.words(), ["engine: would-hold"])
        self.assertEqual([event for event, _ in self.told], [Event.HELD])
        self.assertIn("would be held", self.told[0][1])
        self.assertEqual(self.paces_changed, 0)

    def test_hours(self) -> None:
        """A rollout is widened in some hours only, and held at any time."""
        self.hours = WidenHours(start=0, end=0)
        self.switch("auto")
        self.announce()
        self.update_drawn()
        self.pass_hours(40)
        self.assertEqual(self.words(), [])
        self.install([6, 7, 8], "returned", "fell-over")
        self.pass_hours(1)
        self.assertTrue(self.rollout().is_held)

    def test_metadata(self) -> None:
        """Metadata that is about to expire keeps a rollout from being widened."""
        self.announce()
        self.update_drawn()
        self.problem = "1.root.json expires in 3.0 days."
        self.pass_hours(40)
        self.assertEqual(self.words(), [])
        self.problem = None
        self.pass_hours(1)
        self.assertEqual(self.words(), ["engine: widen"])


@on_each_database
class OutageTests(EngineCase):
    """What happens while the engine, the database or the network is away."""

    def outages(self) -> list[tuple[str, float, float | None]]:
        rows = self.read(lambda store: store.execute(select(outage).order_by(outage.c.id)).all())
        return [
            (row.kind, (row.began - NOW) / HOUR, row.ended and (row.ended - NOW) / HOUR)
            for row in rows
        ]

    def test_engine_stopped(self) -> None:
        """Twelve hours without an engine count for no step and for no silence."""
        self.announce()
        self.update_drawn()
        self.install([6], None)
        self.silent.add(6)
        self.pass_hours(1)
        self.time += 12 * HOUR
        self.run_engine()
        self.assertEqual(self.outages(), [("server", 1, 13)])
        self.pass_hours(5)
        self.assertEqual(self.words(), [])
        self.pass_hours(17)
        self.assertEqual(self.words(), ["engine: first-bad"])
        self.pass_hours(1)
        self.assertEqual(self.words(), ["engine: first-bad", "engine: ask"])

    def test_database_away(self) -> None:
        """The log says once that nothing is judged; afterwards everything goes on."""
        self.announce()
        self.update_drawn()
        self.pass_hours(1)
        self.is_away = True
        with capturedLogs() as events:
            self.pass_hours(12)
            self.is_away = False
            self.pass_hours(12)
        said = [each["log_format"] for each in events]
        self.assertEqual(
            said, ["Rollouts are not judged now: {error}", "Rollouts are judged again"]
        )
        self.assertEqual(self.outages(), [("server", 1, 17)])
        self.pass_hours(15)
        self.assertEqual(self.words(), ["engine: widen"])

    def test_silent_box(self) -> None:
        """Boxes that fall silent as they install hold a release, while others are heard."""
        self.announce()
        self.install([1, 2, 3], None)
        self.silent |= {1, 2, 3}
        self.install([4, 5], "updated")
        self.pass_hours(8)
        self.assertTrue(self.rollout().is_held)
        self.assertIn("3 of 5 boxes are bad (silent 3)", self.audit()[-1].because)

    def test_all_silent(self) -> None:
        """If all boxes fall silent as they install, nobody else is heard: a person is asked."""
        self.announce()
        self.order(widen, ALL)
        self.install(range(1, 41), None)
        self.silent |= set(range(1, 41))
        self.pass_hours(30)
        self.assertEqual(self.words(), ["anna: widen", "engine: ask"])
        self.assertEqual([event for event, _ in self.told], [Event.INCONCLUSIVE])
        self.assertIn(f"To see which boxes: opq-fleet release {NEW}.", self.told[0][1])
        self.assertIn("40 of those under way are silent", self.audit()[-1].because)

    def test_silent_fleet(self) -> None:
        """When many boxes are silent, that is told, and its end; nothing is judged meanwhile."""
        self.announce()
        self.install([1, 2, 3], None)
        self.silent |= set(range(1, 21))
        self.pass_hours(40)
        self.assertEqual(self.words(), ["engine: fleet-silent"])
        self.assertRegex(
            self.audit()[0].because, r"^1\d of the 3\d boxes of the channel stable that "
        )
        self.silent.clear()
        self.pass_hours(1)
        self.assertEqual(self.words(), ["engine: fleet-silent", "engine: fleet-heard"])
        self.assertEqual([event.value for event, _ in self.told], ["fleet-silent", "fleet-heard"])
        [(kind, began, ended)] = self.outages()
        self.assertEqual((kind, ended), ("fleet", 41))
        self.assertLess(began, 8)

    def test_resumed_by_a_clock_ahead(self) -> None:
        """Outcomes from before an operator resumed a release stay old, by whatever clock it was."""
        for ahead in (30.0, 400 * DAY):
            self.announce()
            self.time += HOUR
            self.install([1, 2, 3], "returned", "fell-over")
            self.pass_hours(1)
            self.assertTrue(self.rollout().is_held)
            self.time += ahead
            self.order(resume)
            self.time -= ahead
            self.run_engine()
            self.assertEqual(self.rollout().state, RolloutState.BAKING)
        self.time += HOUR
        self.install([4, 5, 6], "returned", "fell-over")
        self.pass_hours(1)
        self.assertTrue(self.rollout().is_held)

    def test_clock_forward_and_back(self) -> None:
        """A clock that was a year ahead for a while makes nothing wait for a year."""
        self.announce()
        self.pass_hours(1)
        self.time += 365 * DAY
        self.run_engine()
        self.order(widen)
        self.run_engine()
        self.time -= 365 * DAY
        self.pass_hours(1)
        self.assertLessEqual(self.rollout().since, self.time)
        self.update_drawn()
        self.pass_hours(24)
        self.assertEqual(self.words(), ["anna: widen", "engine: widen"])


@on_each_database
class TwoEnginesTests(EngineCase):
    """Two processes on one database."""

    def test_killed(self) -> None:
        """One decides; when it is killed, the other one takes over."""
        other = self.make_engine()
        self.announce()
        self.update_drawn()
        for _ in range(7):
            self.pass_hours(4)
            self.run_engine(other)
        self.update_drawn()
        self.assertEqual(self.words(), ["engine: widen"])
        self.pass_hours(20, other)
        self.assertEqual(self.words(), ["engine: widen"] * 2)
        self.run_engine()
        self.assertEqual(self.words(), ["engine: widen"] * 2)

    def test_within_a_minute(self) -> None:
        """A bad release is held within a minute after the process was killed that decided."""
        clock = Clock()
        first, second = (self.make_engine(clock, Timing()) for _ in range(2))
        self.announce()
        for each in (first, second):
            each.startService()
            self.addCleanup(each.stopService)
        self.pass_seconds(clock, 100)
        first.stopService()
        self.install([1, 2, 3], "returned", "fell-over")
        self.pass_seconds(clock, 60)
        self.assertEqual(self.words(), ["engine: hold"])

    def test_long_run(self) -> None:
        """After a run that takes longer than the pause, the next one comes sooner."""
        for took, pause in ((0, 20), (5, 15), (25, 10)):
            self.time += HOUR
            clock = Clock()
            engine = self.make_engine(clock, Timing())
            self.meanwhile = partial(setattr, clock, "rightNow", took)
            engine.startService()
            clock.advance(0)
            [call] = clock.getDelayedCalls()
            self.assertEqual(call.getTime() - clock.seconds(), pause)
            engine.stopService()

    def pass_seconds(self, clock: Clock, seconds: int) -> None:
        for _ in range(seconds // 5):
            self.time += 5
            clock.advance(5)

    def take_over(self) -> None:
        """Let another engine run, after this one was stopped for hours."""
        self.time += 8 * HOUR
        self.run_engine(self.make_engine())

    def test_taken_over_meanwhile(self) -> None:
        """A process that was stopped as it counted does nothing if another one has taken over."""
        self.announce()
        self.update_drawn()
        self.pass_hours(23)
        self.time += HOUR
        self.meanwhile = self.take_over
        self.run_engine()
        self.assertEqual(self.words(), ["engine: widen"])

    def test_order_meanwhile(self) -> None:
        """An order during a run is carried out, and the decision of the run is not."""
        self.announce()
        self.update_drawn()
        self.pass_hours(23)
        self.time += HOUR
        self.meanwhile = lambda: self.order(hold)
        self.run_engine()
        self.assertEqual(self.words(), ["anna: hold"])
        self.assertEqual((self.rollout().state, self.rollout().bp), (RolloutState.HELD, 1250))
        self.order(resume)
        self.pass_hours(23)
        self.time += HOUR
        self.meanwhile = lambda: self.order(widen)
        self.run_engine()
        self.assertEqual(self.words()[1:], ["anna: resume", "anna: widen"])
        self.assertEqual(self.rollout().bp, 2000)

    def test_at_once(self) -> None:
        """An order and a decision at the same moment come one after the other."""
        self.announce()
        self.update_drawn()
        self.pass_hours(23)
        self.time += HOUR
        order = Thread(target=self.order, args=(hold,))
        self.meanwhile = order.start
        self.run_engine()
        order.join()
        self.assertEqual(self.words()[-1], "anna: hold")
        self.assertLessEqual(len(self.words()), 2)
        self.assertEqual(self.rollout().bp, 2000 if "engine: widen" in self.words() else 1250)
        self.assertTrue(self.rollout().is_held)
