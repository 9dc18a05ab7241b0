"""Reads on the console which stages an update went through, and when."""

import re
import time
from collections.abc import Sequence
from itertools import pairwise

from attrs import frozen

from tests.vm.machine import Machine
from tests.vm.report import Broken

_STAGE = re.compile(r"\[ *(\d+\.\d+)\] opq-box-agent.*Stage: (\w+)")
_POLL_INTERVAL = 0.02


@frozen
class Seen:
    """A stage, and when it was seen first, by this host's monotonic clock."""

    stage: str
    at: float
    #: Seconds since the machine has booted, as it says itself, for a line may come late.
    uptime: float


def durations(seen: Sequence[Seen]) -> dict[str, float]:
    """Tell how long each stage took but the last, in seconds."""
    return {
        one.stage: later.uptime - one.uptime if later.uptime > one.uptime else later.at - one.at
        for one, later in pairwise(seen)
    }


class Watch:
    """Sees the stages from now on; somebody has to look again and again."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._after = len(machine.console)
        self.seen: list[Seen] = []

    def look(self) -> list[Seen]:
        """Look at the console."""
        now = time.monotonic()
        stages = _STAGE.findall(self._machine.console[self._after :])
        self.seen += [Seen(stage, now, float(uptime)) for uptime, stage in stages[len(self.seen) :]]
        return self.seen

    def wait(self, *stages: str, seconds: float) -> Seen:
        """Wait for one of these stages."""
        deadline = time.monotonic() + seconds
        while True:
            for seen in self.look():
                if seen.stage in stages:
                    return seen
            self._machine.must_run()
            if time.monotonic() > deadline:
                raise Broken(f"The box did not come to the stage {' or '.join(stages)}.")
            time.sleep(_POLL_INTERVAL)
