"""Reads the stages of an update, and their times, from the console."""

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
    """A stage, and the time of its first appearance, by this host's monotonic clock."""

    stage: str
    at: float
    #: Seconds since the boot, by the machine's clock, because a line may arrive late.
    uptime: float


def durations(seen: Sequence[Seen]) -> dict[str, float]:
    """Return the seconds of each stage except the last."""
    return {
        one.stage: later.uptime - one.uptime if later.uptime > one.uptime else later.at - one.at
        for one, later in pairwise(seen)
    }


class Watch:
    """Reads the stages from now on, whenever `look` is called."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._after = len(machine.console)
        self.seen: list[Seen] = []

    def look(self) -> list[Seen]:
        """Read the console; returns all stages so far."""
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
