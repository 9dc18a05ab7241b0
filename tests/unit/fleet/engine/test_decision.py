"""Tests of the decision about a rollout."""

from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.engine.decision import Action, Circumstances, decide
from opq_twisted.fleet.engine.evidence import Evidence
from opq_twisted.fleet.engine.sequential_test import SequentialTest
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.rollouts.rollout import Rollout
from opq_twisted.fleet.store.states import RolloutState

_TIMING = Timing()
_ROLLOUT = Rollout(
    channel="stable",
    release=5,
    sha256=None,
    ceiling_bp=10_000,
    bp=100,
    state=RolloutState.BAKING,
    critical=False,
    was_held=False,
    announced_at=0.0,
    since=0.0,
)
_GOOD = Evidence(well=50, drawn=50, ended=50, test=SequentialTest(0.01, 0.05))


class TestDecision(SynchronousTestCase):
    """What is decided follows from the numbers and the time."""

    def decide(self, evidence: Evidence, **circumstances: Any) -> Action:
        given = Circumstances(**{"baked": _TIMING.step, **circumstances})
        return decide(_ROLLOUT, evidence, given, _TIMING).action

    def test_good(self) -> None:
        """A good step is widened when its time is over, and not before."""
        self.assertIs(self.decide(_GOOD), Action.WIDEN)
        self.assertIs(self.decide(_GOOD, baked=_TIMING.step - 1), Action.WAIT)

    def test_hold(self) -> None:
        """Too many bad boxes hold it at any time, also when it is out to all."""
        bad = Evidence(bad_by_reason={"silent": 3}, under_way=2, test=_GOOD.test)
        circumstances = Circumstances(baked=1.0, is_settled=False, is_in_hours=False)
        for state in (RolloutState.BAKING, RolloutState.DONE):
            decision = decide(evolve(_ROLLOUT, state=state), bad, circumstances, _TIMING)
            self.assertIs(decision.action, Action.HOLD)
            self.assertIn(
                "3 of 5 boxes are bad (silent 3), 0 well, 2 under way.", decision.sentence
            )

    def test_too_early(self) -> None:
        """Boxes that began after the last bad one are not in the test yet."""
        bad = Evidence(bad_by_reason={"archive": 3}, under_way=50, test=_GOOD.test)
        self.assertIs(self.decide(bad, baked=1.0), Action.WAIT)
        self.assertIs(self.decide(evolve(bad, too_early=48), baked=1.0), Action.HOLD)

    def test_done(self) -> None:
        """Nothing is to be done for a good release that is out."""
        done = evolve(_ROLLOUT, state=RolloutState.DONE, bp=10_000)
        decision = decide(done, _GOOD, Circumstances(baked=1.0), _TIMING)
        self.assertIs(decision.action, Action.NOTHING)

    def test_wait(self) -> None:
        """A step waits for the network, the metadata, the hours and its boxes."""
        for reason in (
            {"is_fleet_silent": True},
            {"is_settled": False},
            {"metadata_problem": "The timestamp has expired."},
            {"is_in_hours": False},
        ):
            self.assertIs(self.decide(_GOOD, **reason), Action.WAIT, reason)
        few = evolve(_GOOD, drawn=70)
        self.assertIs(self.decide(few), Action.WAIT)
        self.assertIs(self.decide(few, baked=3 * _TIMING.step), Action.WIDEN)
        self.assertIs(self.decide(evolve(few, drawn=62)), Action.WIDEN)

    def test_ask(self) -> None:
        """Somebody has to look if it is neither good nor bad, or if nothing is known."""
        doubtful = evolve(_GOOD, bad_by_reason={"archive": 2})
        self.assertIs(self.decide(doubtful), Action.ASK)
        self.assertIs(self.decide(evolve(_GOOD, bad_by_reason={"archive": 1})), Action.WIDEN)
        self.assertIs(self.decide(Evidence(test=_GOOD.test)), Action.ASK)

    def test_unclear(self) -> None:
        """A few boxes that are silent with others are named, and hinder nothing."""
        unclear = evolve(_GOOD, under_way=1, unclear=1)
        decision = decide(_ROLLOUT, unclear, Circumstances(baked=_TIMING.step), _TIMING)
        self.assertIs(decision.action, Action.WIDEN)
        self.assertIn("1 of those under way is silent, and nobody can tell", decision.sentence)

    def test_doubtful_silence(self) -> None:
        """Silence that nobody can explain is never widened, however long it lasts."""
        unclear = evolve(_GOOD, well=1, under_way=4, unclear=4, drawn=5, ended=1)
        for baked in (_TIMING.step, 9 * _TIMING.step):
            self.assertIs(self.decide(unclear, baked=baked), Action.ASK)
        self.assertIs(self.decide(unclear, baked=1.0), Action.WAIT)
        self.assertIs(self.decide(unclear, is_settled=False), Action.WAIT)
        few = evolve(_GOOD, well=40, under_way=2, unclear=2)
        self.assertIs(self.decide(few), Action.ASK)

    def test_doubtful_silence_of_all(self) -> None:
        """Of a release that is out, somebody is told that it may have silenced too many boxes."""
        out = evolve(_ROLLOUT, state=RolloutState.DONE, bp=10_000)
        for well, unclear, action in (
            (0, 3, Action.ASK),
            (0, 2, Action.NOTHING),
            (500, 3, Action.NOTHING),
        ):
            evidence = Evidence(well=well, under_way=unclear, unclear=unclear, test=_GOOD.test)
            decision = decide(out, evidence, Circumstances(baked=1.0), _TIMING)
            self.assertIs(decision.action, action, (well, unclear))
        evidence = Evidence(under_way=9, unclear=9, test=_GOOD.test)
        for circumstances in (
            Circumstances(baked=1.0, is_settled=False),
            Circumstances(baked=1.0, is_fleet_silent=True),
        ):
            self.assertIs(decide(out, evidence, circumstances, _TIMING).action, Action.NOTHING)

    def test_lowered(self) -> None:
        """A rollout that is at its ceiling has nothing to wait for."""
        lowered = evolve(_ROLLOUT, ceiling_bp=100)
        for evidence in (_GOOD, Evidence(test=_GOOD.test)):
            decision = decide(lowered, evidence, Circumstances(baked=_TIMING.step), _TIMING)
            self.assertIs(decision.action, Action.NOTHING)
