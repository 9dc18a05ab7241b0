"""Cuts the power at random moments, and checks the box afterwards."""

import random
import time
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from tests.vm import invariants
from tests.vm.box import BOOT, Prepared, VmBox
from tests.vm.report import Broken
from tests.vm.scenarios import UPDATE, altered_release, crash_loop
from tests.vm.stages import Seen, Watch

#: The stage of a box that goes back from a bad release.
RETURNING = "returning"

#: The stages of the cuts; installing writes most to the disk, and comes three times.
STAGES = (
    *("checking", "downloading", "verifying", "unpacking", "installing", "installing"),
    *("installing", "rebooting", "confirming", "idle", RETURNING),
)

#: The longest delay of a cut in `idle`, which has no end, in seconds.
_AFTERWARDS = 8.0

#: The longest delay of the second cut after the next start, in seconds.
_RECOVERY = 90.0

#: A box that boots more often than this goes round in circles.
_MAX_BOOTS = 10


@frozen
class Cut:
    """One row of the table: the moment of a cut."""

    number: int
    stage: str
    #: The moment in the stage: 0 is its start, and 1 its end in the reference run.
    part: float
    #: Seconds from the next start to a second cut; None for no second cut.
    again: float | None


#: The first line of the table.
HEADING = (
    f"{'row':>3} {'seed':>6}  {'stage':12} {'delay':>6} {'again':>6} {'boots':>5} {'s':>5}  became"
)


@frozen
class Became:
    """The result of one row."""

    cut: Cut
    #: The last stage on the console before the cut.
    stage: str
    #: Seconds since that stage began.
    delay: float
    became: str
    boots: int
    seconds: float
    whole: bool

    def line(self, seed: int) -> str:
        """Format the row."""
        again = "" if self.cut.again is None else f"{self.cut.again:.1f}"
        return (
            f"{self.cut.number:3} {seed:6}  {self.stage:12} {self.delay:6.2f} {again:>6} "
            f"{self.boots:5} {self.seconds:5.0f}  {self.became}"
        )


def plan(seed: int, count: int, stage: str | None = None) -> list[Cut]:
    """
    Choose the cuts: each stage in turn, in a random order, or one stage only.

    A row does not depend on the number of rows, so it can be repeated alone.
    """
    order = random.Random(seed)
    stages: list[str] = []
    while len(stages) < count:
        stages += order.sample(STAGES, len(STAGES)) if stage is None else [stage]
    return [_choose(seed, number, stage) for number, stage in enumerate(stages[:count], 1)]


def _choose(seed: int, number: int, stage: str) -> Cut:
    chance = random.Random(f"{seed}/{number}")
    part, is_cut_again, moment = chance.random(), chance.random(), chance.uniform(0, _RECOVERY)
    return Cut(number, stage, part, moment if is_cut_again < 1 / 3 else None)


def make(prepared: Prepared, cut: Cut, took: Mapping[str, float], folder: Path) -> Became:
    """Update a fresh box, cut its power, and check it."""
    started = time.monotonic()
    stage, delay, boots, became, whole = cut.stage, 0.0, 0, "", False
    try:
        with VmBox(prepared, folder) as box:
            archives = _publish(box, cut)
            before = box.status()
            seen = _cut_in_stage(box, cut, took)
            stage, delay = seen.stage, time.monotonic() - seen.at
            earlier = box.machine.boots
            _recover(box, before, cut.again)
            boots = box.machine.boots - earlier
            became, whole = _look(box, archives), True
    except Broken as error:
        became = f"BROKEN: {error} See {folder}."
    return Became(cut, stage, delay, became, boots, time.monotonic() - started, whole)


def _publish(box: VmBox, cut: Cut) -> dict[int, Path]:
    """Offer the new release, or a bad one; return the releases that may run, by version."""
    if cut.stage != RETURNING:
        box.publish(box.prepared.new, box.prepared.new_version)
        return box.prepared.archives
    version, archive = altered_release(box, crash_loop)
    box.publish(archive, version)
    return {box.prepared.old_version: box.prepared.old, version: archive}


def _cut_in_stage(box: VmBox, cut: Cut, took: Mapping[str, float]) -> Seen:
    """Click, cut the power in the stage, and return the last stage on the console."""
    watch = Watch(box.machine)
    box.click()
    begun = watch.wait(cut.stage, seconds=UPDATE)
    length = took["installing"] if cut.stage == RETURNING else took.get(cut.stage, _AFTERWARDS)
    time.sleep(max(0.0, begun.at + cut.part * length - time.monotonic()))
    box.cut()
    return watch.look()[-1]


def _recover(box: VmBox, before: dict[str, object], again: float | None) -> None:
    """Boot, and wait until the box is at rest."""
    box.boot()
    if again is not None:
        time.sleep(again)
        box.cut()
        box.boot()
    box.rests(before, UPDATE)
    box.shell.ready(BOOT)
    if box.machine.boots > _MAX_BOOTS:
        raise Broken(f"The box booted {box.machine.boots} times.")


def _look(box: VmBox, archives: Mapping[int, Path]) -> str:
    """Check the box, and describe its state."""
    version, status = invariants.whole(box, archives), box.status()
    if version == box.prepared.old_version:
        return f"old, {status['stage']}: {status['message']}"
    if version != box.prepared.new_version:
        raise Broken(f"The box rests with the bad release {version}.")
    attempt = status["last_attempt"]
    return f"new, {status['stage']}, fetched {attempt['fetched']} of {attempt['size']} bytes"
