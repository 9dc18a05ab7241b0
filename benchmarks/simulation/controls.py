"""The boxes that install nothing, as the server hears them."""

from collections.abc import Container

from benchmarks.simulation.absences import MINUTE
from benchmarks.simulation.boxes import Box
from benchmarks.simulation.installs import Reachable
from opq_twisted.fleet.engine.control_group import ControlGroup
from opq_twisted.fleet.engine.timing import Timing

#: Boxes of a large fleet whose reports are simulated: they have the same shares as all.
MOST = 1000


class SimulatedControls:
    """Follows the reports of a part of the boxes."""

    def __init__(self, boxes: list[Box], reachable: Reachable, announced: float) -> None:
        self._boxes = boxes
        self._reachable = reachable
        for box in boxes:
            self._follow(box, announced)
            # A box that hears of the release reports that it waits for its turn.
            box.next_report = announced + MINUTE * box.random.random()

    def group(self, now: float, busy: Container[Box], broken_before: float) -> ControlGroup:
        """
        Return them at a moment.

        :param busy: the boxes that have begun to install.
        :param broken_before: a report that was due before this time is missing.
        """
        seen, missing = [], []
        for box in self._boxes:
            if box.next_report <= now:
                self._follow(box, now)
            if box in busy:
                continue
            seen.append((box.last_seen, 1))
            if box.due < broken_before:
                missing.append((box.last_seen, box.due))
        return ControlGroup(seen, missing, Timing().slack)

    def _follow(self, box: Box, now: float) -> None:
        while box.next_report <= now:
            time = self._reachable.reach(box, box.next_report)
            if time == box.next_report:
                box.heard(time)
            else:
                box.next_report = time
