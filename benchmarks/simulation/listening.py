"""Judges the silence of the simulated boxes, and keeps the outages."""

from benchmarks.simulation.controls import SimulatedControls
from benchmarks.simulation.ledger import Ledger
from opq_twisted.fleet.engine.hearing import Hearing
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.engine.uptime import Uptime


class Listening:
    """What the server's engine keeps in the database to tell silence from an outage."""

    def __init__(self, controls: SimulatedControls, ledger: Ledger, timing: Timing) -> None:
        self._controls = controls
        self._ledger = ledger
        self._timing = timing
        #: The outages of the server, and those of the fleet that are over.
        self.server: list[tuple[float, float]] = []
        self._fleet: list[tuple[float, float]] = []
        self._silent_since: float | None = None
        #: The share of the boxes that fell silent by themselves, with those that count as bad.
        self.usual = 0.0

    @property
    def is_fleet_silent(self) -> bool:
        """Whether too many boxes that install nothing are silent."""
        return self._silent_since is not None

    def hearing(self, now: float) -> Hearing:
        """Return since when the boxes could be heard."""
        since = self._silent_since
        lasting = [] if since is None else [(since, now)]
        server = Uptime(self.server)
        both = Uptime([*self.server, *self._fleet, *lasting])
        return Hearing(server=server, both=both, silent_since=since, now=now, timing=self._timing)

    def listen(self, now: float) -> None:
        """Look at the controls, and judge the silence."""
        hearing = self.hearing(now)
        group = self._controls.group(now, self._ledger.open, hearing.broken_before)
        is_silent = hearing.is_fleet_silent(group.since(hearing.moment))
        self._note(is_silent, hearing.moment, now)
        can_judge = hearing.is_settled and not is_silent
        self._ledger.judge_silence(hearing.silent_before, group if can_judge else None)
        moments = {self._ledger.open[box] for box in self._ledger.silent}
        usual = [group.since(moment) for moment in moments]
        self.usual = max((each.share for each in usual if each.can_tell), default=0.0)

    def _note(self, is_silent: bool, moment: float, now: float) -> None:
        if is_silent and self._silent_since is None:
            self._silent_since = moment
        elif not is_silent and self._silent_since is not None:
            self._fleet.append((self._silent_since, now))
            self._silent_since = None
