"""Tests of what is carried out, whatever is decided, and whatever people do meanwhile."""

from random import Random

from attrs import evolve

from opq_twisted.fleet.audit import MAX_BECAUSE
from opq_twisted.fleet.engine.assessment import Assessment
from opq_twisted.fleet.engine.control_group import Controls
from opq_twisted.fleet.engine.decision import Action, Circumstances, Decision
from opq_twisted.fleet.engine.evidence import Evidence
from opq_twisted.fleet.engine.executor import Executor
from opq_twisted.fleet.engine.sequential_test import SequentialTest
from opq_twisted.fleet.rollouts.orders import OrderRefused, hold, resume, widen
from opq_twisted.fleet.rollouts.rollout import Rollout
from opq_twisted.fleet.settings import Rollouts, begins_small
from opq_twisted.fleet.store.states import RolloutState
from opq_twisted.trust.pace import ALL
from tests.helpers.engine_case import EngineCase
from tests.helpers.fleet_rows import NEW

_ACTIONS = (Action.HOLD, Action.WIDEN, Action.ASK, Action.WAIT)


class ExecutorTests(EngineCase):
    """Decisions that no numbers have led to."""

    def assess(self, action: Action, sentence: str = "3 of 5 boxes are bad.") -> Assessment:
        """Decide about the rollout as it is now."""
        known = self.rollout()
        return Assessment(
            at=self.time,
            rollout=known,
            evidence=Evidence(bad_by_reason={"silent": 1}, test=SequentialTest(0.01, 0.05)),
            circumstances=Circumstances(baked=0),
            decision=None if known.is_held else Decision(action, sentence),
            next_bp=None if known.bp >= known.ceiling_bp else known.ceiling_bp,
            before=None,
            controls=Controls(10, 0),
            results=(),
        )

    def carry_out(self, assessment: Assessment) -> bool:
        executor = Executor(self.mode, self.tell)
        return self.write(lambda store: executor.carry_out(store, assessment, self.time))

    def test_long_sentence(self) -> None:
        """A sentence that is too long for the audit prevents no hold."""
        self.announce()
        self.assertTrue(self.carry_out(self.assess(Action.HOLD, "bad " * 500)))
        self.assertEqual(len(self.audit()[0].because), MAX_BECAUSE)

    def test_changed(self) -> None:
        """Nothing is done about a rollout that has changed, or is not there any more."""
        self.announce()
        for action in _ACTIONS:
            decided = self.assess(action)
            for changes in ({"bp": 7}, {"since": 7.0}, {"sentence": "x"}, {"release": 7}):
                changed = evolve(decided, rollout=evolve(decided.rollout, **changes))
                self.assertFalse(self.carry_out(changed))
        self.assertEqual(self.audit(), [])

    def test_random(self) -> None:
        """Each decision and each order is one row; a share grows by `widen` only; a hold stays."""
        modes: tuple[Rollouts, ...] = ("observe", "ask", "auto")
        for seed in range(30):
            random = Random(seed)
            self.mode = random.choice(modes)
            self.time += 100
            self.announce(NEW + seed, ceiling=random.choice((500, 3000, ALL)))
            self.release = NEW + seed
            for _ in range(10):
                self.time += 1
                (self.check_order if random.random() < 0.3 else self.check_decision)(random)

    def rollout(self, release: int | None = None) -> Rollout:
        return super().rollout(getattr(self, "release", NEW) if release is None else release)

    def check_order(self, random: Random) -> None:
        give, rows = random.choice((hold, resume, widen)), len(self.audit())
        try:
            self.order(give, release=self.release)
        except OrderRefused:
            rows -= 1
        self.assertEqual(len(self.audit()), rows + 1)

    def check_decision(self, random: Random) -> None:
        action, before, rows = random.choice(_ACTIONS), self.rollout(), len(self.audit())
        is_changed = self.carry_out(self.assess(action))
        after, added = self.rollout(), [row.what for row in self.audit()[rows:]]
        self.assertEqual(is_changed, after != before)
        self.assertEqual(len(added), len({*added}))
        self.assertLessEqual(after.bp, after.ceiling_bp)
        if before.is_held:
            self.assertEqual((after, added), (before, []))
        elif action is Action.HOLD and begins_small(self.mode):
            self.assertEqual((after.state, after.bp, added), ("held", before.bp, ["hold"]))
        elif action is Action.WIDEN and self.mode == "auto" and before.bp < before.ceiling_bp:
            self.assertGreater(after.bp, before.bp)
            self.assertEqual(added[-1], "widen")
            self.assertEqual(after.state == RolloutState.DONE, after.bp == after.ceiling_bp)
        else:
            self.assertEqual(after, before)
            self.assertLessEqual({*added}, {"would-hold", "ask", "first-bad"})
