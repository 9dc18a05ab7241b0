"""The rules of other servers, which judge the same simulated boxes."""

import heapq
from collections.abc import Callable
from math import inf

from attrs import define, field

from benchmarks.simulation.absences import DAY, END
from benchmarks.simulation.result import Result
from benchmarks.simulation.steps import first_share
from benchmarks.simulation.world import World
from opq_twisted.fleet.queries.outcomes import is_bad
from opq_twisted.fleet.rollouts.steps import next_step
from opq_twisted.report.codes import Outcome
from opq_twisted.trust.pace import ALL

#: The share of bad boxes that holds a release, after so many outcomes.
_MOST_BAD, _LEAST_ENDED = 0.05, 10

#: The share of a group that has to be updated before the next one begins.
_GROUP_DONE = 0.5


@define
class Counts:
    """What such a server knows: silence is nothing."""

    bad: int = 0
    ended: int = 0
    #: The boxes of the last step: all, and those that are bad and well.
    group: int = 0
    group_bad: int = 0
    group_well: int = 0
    since: float = 0.0


@define
class PlainRule:
    """When a server holds a release, and when it goes on to the next step."""

    name: str
    holds: Callable[[Counts], bool]
    #: Returns the time at which the next step begins; infinite if not yet.
    widens_at: Callable[[Counts, float], float] = field()


def _share_of_ended(counts: Counts) -> bool:
    return counts.ended >= _LEAST_ENDED and counts.bad >= _MOST_BAD * counts.ended


def _share_of_group(counts: Counts) -> bool:
    return counts.group_bad > _MOST_BAD * counts.group


def _after_a_day(counts: Counts, _: float) -> float:
    return counts.since + DAY


def _after_half(counts: Counts, now: float) -> float:
    return now if counts.group_well >= _GROUP_DONE * counts.group else inf


RULES = (
    PlainRule("5 % after 10", _share_of_ended, _after_a_day),
    PlainRule("5 % of the group", _share_of_group, _after_half),
)


class PlainWalk:
    """A rollout that such a rule judges after each outcome."""

    def __init__(self, world: World, rule: PlainRule) -> None:
        self._world = world
        self._rule = rule
        self._counts = Counts()
        #: The time of an outcome, its order and step, and whether it is bad; None: it is neither.
        self._events: list[tuple[float, int, int, bool | None]] = []
        self._began: list[float] = []
        self._first = first_share(world.scenario.boxes)
        self._bp, self._step = 0, -1
        self.result = Result()

    def run(self) -> Result:
        """Run it."""
        counts, now = self._counts, self._world.announced
        self._widen(now)
        # Fake keys are boxes for it.
        counts.bad = counts.ended = counts.group_bad = self._world.scenario.fake_keys
        while self.result.held is None:
            if self._rule.holds(counts):
                self.result.held = (now - self._world.announced) / DAY
                self.result.step, self.result.bad = self._step, counts.bad
                break
            widens_at = inf if self._bp == ALL else self._rule.widens_at(counts, now)
            ends_at = self._events[0][0] if self._events else inf
            if min(widens_at, ends_at) >= END:
                now = END
                break
            now = min(widens_at, ends_at)
            if widens_at <= ends_at:
                self._widen(now)
            else:
                self._count(*heapq.heappop(self._events)[2:])
        self.result.boxes = sum(began <= now for began in self._began)
        return self.result

    def _count(self, step: int, bad: bool | None) -> None:
        if bad is None:
            return
        counts = self._counts
        counts.ended += 1
        counts.bad += bad
        if step == self._step:
            counts.group_bad += bad
            counts.group_well += not bad

    def _widen(self, now: float) -> None:
        world, counts = self._world, self._counts
        self._bp = next_step(self._bp, self._first)
        self._step += 1
        world.begin_step(self._step, now)
        drawn = world.draw(self._bp)
        counts.group, counts.group_bad, counts.group_well = len(drawn), 0, 0
        counts.since = now
        for box, install in world.offer(drawn, now):
            self._began.append(install.began)
            if install.ended == inf:
                continue
            bad = is_bad(install.outcome or "", install.reason or "")
            known = bad or install.outcome == Outcome.UPDATED
            time = world.reachable.reach(box, install.ended)
            event = (time, len(self._began), self._step, bad if known else None)
            heapq.heappush(self._events, event)
        if self._bp == ALL:
            self.result.walk = (now - world.announced) / DAY
