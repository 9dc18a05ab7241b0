"""The homes of a simulated fleet: what follows from the seed for each box, whatever a rule does."""

from collections.abc import Callable
from random import Random

from attrs import frozen

from benchmarks.simulation.absences import absences
from benchmarks.simulation.scenarios import Scenario

#: The share of the boxes that wait for a click.
_BY_CLICK = 0.04


@frozen(eq=False)
class Home:
    """Where a box is, and how it takes an update."""

    number: int
    #: The times at which it goes away and comes back in turn.
    absences: list[float]
    #: Where it is between the worst and the best, and between two ways to fail; from 0 to 1.
    luck: float
    way: float
    #: Whether its provider is the one that may fail.
    is_in_area: bool
    #: Whether it installs without a click.
    is_automatic: bool


class Homes:
    """
    All homes of a seed.

    They are made when they are needed: most never are in a rollout that is held early.
    """

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.seed = seed
        self._made: dict[int, Home] = {}
        self._drawn: dict[int, list[int]] = {}
        self._waiting = list(range(1, scenario.boxes + 1))

    def __getitem__(self, number: int) -> Home:
        """Return the home of a box."""
        home = self._made.get(number)
        if home is None:
            home = self._made[number] = self._make(number)
        return home

    def draw(self, bp: int, has_turn: Callable[[int, int], bool]) -> list[int]:
        """
        Return the numbers of the boxes whose turn it is at a share, and was not before.

        All rules have the same steps, and the draw takes long.

        :param has_turn: tells of a number and the share whether it is drawn.
        """
        if bp not in self._drawn:
            drawn, left = list[int](), list[int]()
            for number in self._waiting:
                (drawn if has_turn(number, bp) else left).append(number)
            self._drawn[bp], self._waiting = drawn, left
        return self._drawn[bp]

    def _make(self, number: int) -> Home:
        scenario, random = self.scenario, Random(self.seed << 20 | number)
        outage = scenario.outage
        return Home(
            number,
            absences(scenario.habits, random),
            luck=random.random(),
            way=random.random(),
            is_in_area=outage is not None and random.random() < outage.share,
            is_automatic=random.random() >= _BY_CLICK,
        )
