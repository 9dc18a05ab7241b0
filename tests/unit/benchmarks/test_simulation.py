"""Tests that the simulated engine judges a fleet as the real one does."""

from typing import Any

from attrs import evolve
from sqlalchemy import Connection, bindparam, delete, insert, update

from benchmarks.simulation.absences import BEGIN, HOUR
from benchmarks.simulation.boxes import Box
from benchmarks.simulation.homes import Homes
from benchmarks.simulation.result import Result
from benchmarks.simulation.scenarios import Failing, Outage, Scenario
from benchmarks.simulation.walk import Judgement, Walk
from benchmarks.simulation.world import World
from opq_twisted.fleet.engine.gather import assess
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.rollouts.rollout import Rollout
from opq_twisted.fleet.store.schema import attempt, box
from opq_twisted.fleet.store.states import RolloutState
from opq_twisted.report.codes import Outcome
from opq_twisted.trust.pace import ALL
from tests.helpers.engine_case import EngineCase
from tests.helpers.fleet_rows import NOW, OLD, add_attempt, add_rollout, attempt_values

#: Seconds between two looks, so that the tests are quick; otherwise as in a server.
_LOOK = 7000.0
_TIMING = Timing(gap=1.5 * _LOOK)

_BOXES = 40


class TestSimulation(EngineCase):
    """At each look the real engine gets what the simulated one knows, in a database."""

    boxes = _BOXES

    def test_good(self) -> None:
        """A good release walks."""
        result = self.walk(Scenario(name="good", boxes=_BOXES, bad=0.0))
        self.assertIsNone(result.held)
        self.assertEqual(self.row().bp, ALL)

    def test_bad(self) -> None:
        """A release that is bad for every box is held in its first step."""
        result = self.walk(Scenario(name="bad", boxes=_BOXES, bad=1.0))
        self.assertEqual((result.step, result.bad), (0, 4))
        self.assertEqual(self.row().state, RolloutState.HELD)
        self.assertIn("engine: hold", self.words())

    def test_silent(self) -> None:
        """A release that cuts boxes off the network is held in its first step."""
        scenario = Scenario(name="silent", boxes=_BOXES, bad=1.0, failing=Failing.SILENT)
        result = self.walk(scenario)
        self.assertEqual(result.step, 0)
        self.assertIn("silent", self.row().sentence or "")

    def test_outage(self) -> None:
        """A network that is down for a third of the boxes holds nothing."""
        outage = Outage(share=1 / 3, shortest=12 * HOUR, longest=12 * HOUR)
        result = self.walk(Scenario(name="outage", boxes=_BOXES, bad=0.0, outage=outage))
        self.assertIsNone(result.held)
        self.assertEqual(self.row().bp, ALL)
        self.assertIn("engine: fleet-silent", self.words())
        self.assertIn("engine: fleet-heard", self.words())

    def walk(self, scenario: Scenario, seed: int = 1) -> Result:
        """Let both engines judge a rollout."""
        self.world = World(Homes(scenario, seed))
        self.engine = self.make_engine(timing=_TIMING)
        self.time = NOW + self.world.announced
        self.write(self.add_before)
        self.announce(self.world.release)
        self.walked = Walk(self.world, _TIMING, _LOOK, self.observe)
        return self.walked.run()

    def add_before(self, connection: Connection) -> None:
        """Add the release before, which was good."""
        then = {"announced_at": NOW + BEGIN, "since": NOW + BEGIN}
        add_rollout(connection, OLD, state=RolloutState.SUPERSEDED, **then)
        for number, row in self.rows.items():
            columns: dict[str, Any] = {"release": OLD, "received": NOW + BEGIN}
            add_attempt(connection, row, Outcome.UPDATED, number=1000 + number, **columns)

    def row(self) -> Rollout:
        """Return the rollout in the database."""
        return self.rollout(self.world.release)

    def observe(self, simulated: Judgement) -> None:
        """Give the engine what is known, and compare the judgements."""
        self.time = NOW + simulated.now
        self.assertEqual(self.row().bp, simulated.rollout.bp)
        self.assertEqual(self.row().state, simulated.rollout.state)
        self.write(self.store_fleet)
        [real] = self.read(
            lambda store: assess(store, self.time, _TIMING, only=[self.world.release])
        )
        expected, evidence = simulated.evidence, real.evidence
        if not expected.drawn:
            evidence = evolve(evidence, drawn=0, ended=0)
        self.assertAlmostEqual(evidence.test.accepted, expected.test.accepted, places=2)
        self.assertEqual(evolve(evidence, test=expected.test), expected)
        assert real.decision is not None
        self.assertIs(real.decision.action, simulated.action)
        self.run_engine()

    def store_fleet(self, connection: Connection) -> None:
        """Write all boxes and their attempts."""
        boxes = [self.world.box(number) for number in self.rows]
        drawn = set(self.walked.drawn)
        change = update(box).where(box.c.id == bindparam("row"))
        connection.execute(change, [self.describe(each, each in drawn) for each in boxes])
        connection.execute(delete(attempt).where(attempt.c.release == self.world.release))
        ledger = self.walked.ledger
        attempts = [
            self.attempt(each, 2000, end.outcome, end.reason, NOW + ledger.received[each])
            for each, end in ledger.ends.items()
        ] + [
            self.attempt(each, 3000, None, None, NOW + began) for each, began in ledger.open.items()
        ]
        if attempts:
            connection.execute(insert(attempt), attempts)

    def describe(self, each: Box, is_drawn: bool) -> dict[str, Any]:
        """Return the row of a box, and its columns."""
        end = self.walked.ledger.ends.get(each)
        is_new = end is not None and end.outcome == Outcome.UPDATED
        return {
            "row": self.rows[each.home.number],
            "release": self.world.release if is_new else OLD,
            "install": "automatic" if each.home.is_automatic else "click",
            "waiting": None if is_drawn else "turn",
            "last_seen": NOW + each.last_seen,
            "due": NOW + each.due,
        }

    def attempt(
        self, each: Box, number: int, outcome: str | None, reason: str | None, received: float
    ) -> dict[str, Any]:
        """Return the columns of an attempt of a box."""
        row = self.rows[each.home.number]
        columns = {"number": number + each.home.number, "release": self.world.release}
        return attempt_values(row, outcome, reason, received=received, **columns)
