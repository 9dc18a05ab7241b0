"""Lets the engine of the server judge a simulated rollout."""

import heapq
from collections.abc import Callable
from enum import IntEnum
from math import inf

from attrs import evolve, frozen

from benchmarks.simulation.absences import DAY, END, HOUR, MINUTE
from benchmarks.simulation.boxes import Box
from benchmarks.simulation.controls import MOST, SimulatedControls
from benchmarks.simulation.installs import Install
from benchmarks.simulation.ledger import Ledger
from benchmarks.simulation.listening import Listening
from benchmarks.simulation.result import Result
from benchmarks.simulation.steps import first_share
from benchmarks.simulation.world import World
from opq_twisted.fleet.engine.decision import Action, Circumstances, decide
from opq_twisted.fleet.engine.evidence import Evidence
from opq_twisted.fleet.engine.sequential_test import SequentialTest
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.rollouts.rollout import Rollout
from opq_twisted.fleet.rollouts.steps import next_step
from opq_twisted.fleet.store.states import RolloutState
from opq_twisted.trust.pace import ALL

_TIMING = Timing()

#: Seconds until somebody who is asked says yes, whatever the numbers are: the worst answer.
_ANSWER = 8 * HOUR

#: Seconds for which a release that is out to all is watched.
_AFTER = DAY

#: The release before: of so many boxes, this share was bad.
_BEFORE_BAD = 0.004


class _Kind(IntEnum):
    BEGIN = 0
    END = 1
    LOOK = 2
    ANSWER = 3


@frozen
class Judgement:
    """What the engine thinks of a rollout at a time."""

    now: float
    rollout: Rollout
    evidence: Evidence
    action: Action


class Walk:
    """A rollout from its announcement until it is held, or out to all, or time is up."""

    def __init__(
        self,
        world: World,
        timing: Timing = _TIMING,
        look: float = 15 * MINUTE,
        observe: Callable[[Judgement], object] = lambda _: None,
    ) -> None:
        """
        :param look: seconds between two looks without an occasion; the real engine looks each 20.
        :param observe: called with each judgement, before it is carried out.
        """
        boxes = world.scenario.boxes
        self._world = world
        self._timing, self._look_after = timing, look
        self._observe = observe
        self.ledger = Ledger()
        self._events: list[tuple[float, int, _Kind, Box | None, Install | None]] = []
        self._count = 0
        sample = [world.box(number) for number in range(1, min(boxes, MOST) + 1)]
        controls = SimulatedControls(sample, world.reachable, world.announced)
        self._listening = Listening(controls, self.ledger, timing)
        #: The boxes whose turn it is.
        self.drawn: list[Box] = []
        self._began: list[float] = []
        self._first = first_share(boxes)
        self._rollout = _announce(world, self._first)
        self._step = 0
        self._asked_in: int | None = None
        self.result = Result()

    def run(self) -> Result:
        """Run it."""
        now = self._world.announced
        self._offer(now)
        self._push(now, _Kind.LOOK)
        self._fake(now)
        while self._events:
            now, _, kind, box, install = heapq.heappop(self._events)
            if now > END or self._is_over(now):
                break
            if kind is _Kind.LOOK:
                self._look(now)
            elif kind is _Kind.ANSWER:
                self._answer(now)
            else:
                assert box is not None
                assert install is not None
                self._hear(now, kind, box, install)
            if self.result.held is not None:
                break
        self.result.boxes = sum(began <= now for began in self._began)
        return self.result

    def _is_over(self, now: float) -> bool:
        done = self._rollout.state == RolloutState.DONE
        return done and now > self._rollout.since + _AFTER

    def _push(
        self, time: float, kind: _Kind, box: Box | None = None, install: Install | None = None
    ) -> None:
        if time < END:
            self._count += 1
            heapq.heappush(self._events, (time, self._count, kind, box, install))

    def _offer(self, now: float) -> None:
        world = self._world
        world.begin_step(self._step, now)
        drawn = world.draw(self._rollout.bp)
        self.drawn += drawn
        reach = world.reachable.reach
        for box, install in world.offer(drawn, now):
            self._began.append(install.began)
            # A report that is lost is made up for by that of the outcome.
            if reach(box, install.began) == install.began:
                self._push(install.began, _Kind.BEGIN, box, install)
            if install.ended < inf:
                self._push(reach(box, install.ended), _Kind.END, box, install)

    def _fake(self, now: float) -> None:
        scenario, timing = self._world.scenario, self._timing
        if scenario.fake_hours * 3600 >= timing.key_age:
            for _ in range(scenario.fake_keys):
                self.ledger.add_bad("unhealthy-service")

    def _hear(self, now: float, kind: _Kind, box: Box, install: Install) -> None:
        later = self._world.reachable.reach(box, now)
        if later > now:
            # The outage began after the attempt.
            if kind is _Kind.END:
                self._push(later, kind, box, install)
            return
        if kind is _Kind.BEGIN:
            self.ledger.begin(box, now)
            box.next_report = inf
            box.last_seen = now
            return
        bad = self.ledger.end(box, install, now)
        if install.outcome == "updated":
            box.updated_at = now
        box.heard(now)
        if bad:
            self._judge(now)

    def _look(self, now: float) -> None:
        reachable = self._world.reachable
        if (down := reachable.server_down(now)) is not None:
            self._listening.server.append(down)
            self._push(down[1], _Kind.LOOK)
            return
        self._listening.listen(now)
        self._judge(now)
        self._push(self._next_look(now), _Kind.LOOK)

    def _next_look(self, now: float) -> float:
        """Return when something may change by itself: a box falls silent, or the step is over."""
        timing = self._timing
        times = [now + self._look_after]
        if (oldest := self.ledger.oldest_clear) is not None:
            times.append(oldest + timing.silence + 1.0)
        times.append(self._rollout.since + timing.step + 1.0)
        return min(max(time, now + timing.period) for time in times if time > now)

    def _judge(self, now: float) -> None:
        timing, rollout = self._timing, self._rollout
        hearing = self._listening.hearing(now)
        baked = hearing.server.between(rollout.since, now)
        drawn, ended = (0, 0) if baked < timing.step else self._through(now)
        boxes = self._world.scenario.boxes
        before = round(_BEFORE_BAD * boxes)
        test = SequentialTest.after(before, boxes, self._listening.usual)
        circumstances = Circumstances(
            baked=baked,
            is_settled=hearing.is_settled,
            is_fleet_silent=self._listening.is_fleet_silent,
        )
        evidence = self.ledger.evidence(test, drawn, ended)
        action = decide(rollout, evidence, circumstances, timing).action
        self._observe(Judgement(now, rollout, evidence, action))
        if action is Action.HOLD:
            self.result.held = (now - rollout.announced_at) / DAY
            self.result.step, self.result.bad = self._step, evidence.bad
        elif action is Action.ASK and rollout.state == RolloutState.BAKING:
            self._ask(now)
        elif action is Action.WIDEN:
            self._widen(now)

    def _ask(self, now: float) -> None:
        if self._asked_in != self._step:
            self._asked_in = self._step
            self.result.asked = True
            self._push(now + _ANSWER, _Kind.ANSWER)

    def _answer(self, now: float) -> None:
        # Meanwhile it may have been widened without an answer.
        if self._asked_in == self._step:
            self._widen(now)

    def _through(self, now: float) -> tuple[int, int]:
        """Return the drawn boxes that were heard in this step, and those of them that ended."""
        since, ledger = self._rollout.since, self.ledger
        there = [box for box in self.drawn if box.home.is_automatic and _was_heard(box, since, now)]
        ended = sum(box in ledger.ends for box in there)
        return len(there), ended

    def _widen(self, now: float) -> None:
        bp = next_step(self._rollout.bp, self._first)
        state = RolloutState.DONE if bp == ALL else RolloutState.BAKING
        self._rollout = evolve(self._rollout, bp=bp, state=state, since=now)
        self._step += 1
        if bp == ALL:
            self.result.walk = (now - self._rollout.announced_at) / DAY
        self._offer(now)


def _was_heard(box: Box, since: float, now: float) -> bool:
    if box.home.number <= MOST:
        return box.last_seen >= since
    return box.is_there_in(since, now)


def _announce(world: World, bp: int) -> Rollout:
    return Rollout(
        channel="stable",
        release=world.release,
        sha256=None,
        ceiling_bp=ALL,
        bp=bp,
        state=RolloutState.DONE if bp == ALL else RolloutState.BAKING,
        critical=False,
        was_held=False,
        announced_at=world.announced,
        since=world.announced,
    )
