"""The installations of a simulated release, from the moment at which a box has its turn."""

from math import exp, inf

from attrs import frozen

from benchmarks.simulation.absences import END, HOUR, MINUTE
from benchmarks.simulation.boxes import Box
from benchmarks.simulation.scenarios import Failing, Scenario
from opq_twisted.report.codes import Outcome, Reason

#: The shares of installations that end for the network's or the box's reasons: while the archive is
#: downloaded, of which the server is told nothing before, and later.
_DOWNLOAD_FAILS, _INTERRUPTED = 0.03, 0.01

#: Reasons of boxes that return, some of them again and again.
_RETURNS = (
    Reason.UNHEALTHY_SERVICE,
    Reason.UNHEALTHY_SERVICE,
    Reason.UNHEALTHY_VERIFY,
    Reason.FELL_OVER,
    Reason.RESCUED,
)


@frozen
class Install:
    """An attempt: its times on the box, and its end."""

    began: float
    #: Infinite if the box falls silent.
    ended: float
    outcome: Outcome | None
    reason: Reason | None = None


def installs(box: Box, offered: float, scenario: Scenario, server: "Reachable") -> list[Install]:
    """Return the attempts of a box that has its turn from a time on; only the last one counts."""
    random, made = box.random, list[Install]()
    time = offered
    while (look := server.reach(box, time)) < END:
        # It is woken by the long poll, and waits for a random part of the spread.
        began = look + 330 * random.random() + MINUTE * exp(random.gauss(0.7, 0.7))
        if server.reach(box, began) > began:
            time = began
        elif random.random() < _DOWNLOAD_FAILS:
            time = began + HOUR * random.uniform(0.8, 1.2)
        elif random.random() < _INTERRUPTED:
            ended = began + 5 * MINUTE * random.random()
            made.append(Install(began, ended, Outcome.FAILED, Reason.INTERRUPTED))
            time = ended + HOUR * random.uniform(1.0, 6.0)
        else:
            return [*made, _end(box, began, scenario)]
    return made


def _end(box: Box, began: float, scenario: Scenario) -> Install:
    took = MINUTE * (1.0 + 4.0 * exp(box.random.gauss(0.0, 0.5)))
    if box.home.luck >= scenario.bad:
        return Install(began, began + took, Outcome.UPDATED)
    if scenario.failing is Failing.SILENT or box.home.way < 0.2:
        return Install(began, inf, None)
    if box.home.way < 0.4:
        took = MINUTE * box.random.uniform(0.3, 3.0)
        return Install(began, began + took, Outcome.FAILED, Reason.INSTALL_STATUS)
    reason = box.random.choice(_RETURNS)
    wait = 4 * HOUR if reason is Reason.RESCUED else MINUTE * box.random.uniform(2.0, 12.0)
    return Install(began, began + took + wait, Outcome.RETURNED, reason)


class Reachable:
    """The outages that boxes share."""

    def __init__(self) -> None:
        #: The time, and whether it is the server or the boxes of an area.
        self.periods: list[tuple[float, float, bool]] = []

    def reach(self, box: Box, time: float) -> float:
        """Return when a box can reach the server; the given time if it can at that."""
        while True:
            there = box.back_at(time)
            if there == time:
                there = self._over(box, time)
            if there == time:
                return time
            time = box.after_absence(there)

    def server_down(self, time: float) -> tuple[float, float] | None:
        """Return the period in which the server is down; None if it is not."""
        for start, end, is_server in self.periods:
            if is_server and start <= time < end:
                return start, end
        return None

    def _over(self, box: Box, time: float) -> float:
        for start, end, is_server in self.periods:
            if start <= time < end and (is_server or box.home.is_in_area):
                return end
        return time
