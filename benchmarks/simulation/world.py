"""The simulated world of one seed: the fleet, the draw, and the outages."""

from collections.abc import Iterator
from random import Random

from benchmarks.simulation.absences import DAY, MINUTE
from benchmarks.simulation.boxes import Box
from benchmarks.simulation.homes import Homes
from benchmarks.simulation.installs import Install, Reachable, installs
from opq_twisted.trust.offer import Rollout


class World:
    """Whether a box fails follows from its home, whatever the rule does; times do not."""

    def __init__(self, homes: Homes) -> None:
        self._homes, self.scenario = homes, homes.scenario
        seed, scenario = homes.seed, homes.scenario
        self._random = random = Random(f"{scenario.name} {seed}")
        #: Seconds after midnight.
        self.announced = random.uniform(0, DAY)
        self.release = 1_700_000_000 + seed
        self._rollout = Rollout(100, f"{random.getrandbits(256):064x}")
        self._outage_after = random.uniform(5 * MINUTE, 15 * MINUTE)
        self._outage_luck = random.random()
        #: From the second to the last one.
        self._outage_step = random.randint(1, 4)
        self.reachable = Reachable()
        self._boxes: dict[int, Box] = {}

    def box(self, number: int) -> Box:
        """Return a box."""
        if number not in self._boxes:
            self._boxes[number] = Box(self._homes[number], self._random)
        return self._boxes[number]

    def draw(self, bp: int) -> list[Box]:
        """Return the boxes whose turn it is at a share, and was not before."""
        return [self.box(number) for number in self._homes.draw(bp, self._has_turn)]

    def _has_turn(self, number: int, bp: int) -> bool:
        return self._rollout.includes(self.release, number, bp)

    def offer(self, boxes: list[Box], time: float) -> Iterator[tuple[Box, Install]]:
        """Give the attempts of boxes that have their turn from a time on."""
        for box in boxes:
            if box.home.is_automatic:
                for install in installs(box, time, self.scenario, self.reachable):
                    yield box, install

    def begin_step(self, step: int, time: float) -> None:
        """Begin the outage if it is in this step."""
        outage = self.scenario.outage
        if outage is not None and self._outage_step == step:
            start = time + self._outage_after
            lasts = outage.shortest + self._outage_luck * (outage.longest - outage.shortest)
            self.reachable.periods.append((start, start + lasts, outage.is_server))
