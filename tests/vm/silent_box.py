"""Lets the machine fall silent in the middle of an update, which holds the rollout."""

import itertools
import json
from pathlib import Path
from typing import Any

from demo.fates import Fate
from demo.small_releases import draw
from opq_twisted.trust.pace import FIELD
from tests.vm.box import VmBox
from tests.vm.fleet import Fleet
from tests.vm.report import Broken, must
from tests.vm.stages import Watch

#: The engine's times are divided by this: a step takes 12 minutes, and a box is silent after 3.
_SHORTEN = 120

#: The small boxes that install the release in the first step, and the others.
_FIRST, _LATER = 4, 20

#: Two of the first ones fall silent, too: three bad boxes hold a rollout.
_FATES = (*2 * (Fate.SILENT,), *2 * (Fate.UPDATED,))

#: Shares of the boxes: less than the first step with so many of them, and more than it.
_EARLY, _LATE = 0.15, 0.5

#: Seconds until the box must install, and from then on until the rollout must be held.
_UPDATE, _HOLD = 1500.0, 900.0


def holds_rollout(box: VmBox) -> str:
    """A box that loses its power for good while it installs holds the rollout, with two others."""
    release, archive = box.prepared.new_version, box.prepared.new
    early, late = _draw(archive, release)
    machine, *first = early
    with Fleet(box, _SHORTEN) as fleet:
        box.configure(machine, install="automatic", spread=0)
        admission = box.folder / "admit"
        admission.write_text(f"{machine},{box.status()['fingerprint']}\n")
        fleet.admit(admission)
        fleet.start([*first, *late], box.prepared.old_version, {release: _FATES})
        watch = Watch(box.machine)
        box.publish(archive, release)
        watch.wait("installing", seconds=_UPDATE)
        fleet.wait("knows of the installation", lambda: _is_installing(fleet, machine), 60)
        box.cut()
        fleet.wait("holds the rollout", lambda: bool(fleet.status()["held"]), _HOLD)
        return _check(box, fleet, release, machine)


def _draw(archive: Path, release: int) -> tuple[list[int], list[int]]:
    """Choose numbers of boxes: those of the first step, and those of the last one."""
    numbers = range(1, 1000)
    early = draw(archive, release, numbers, _EARLY)
    within = set(draw(archive, release, numbers, _LATE))
    late = (each for each in numbers if each not in within)
    return list(early[: 1 + _FIRST]), list(itertools.islice(late, _LATER))


def _is_installing(fleet: Fleet, machine: int) -> bool:
    return any(each["stage"] == "installing" for each in fleet.attempts(machine))


def _check(box: VmBox, fleet: Fleet, release: int, machine: int) -> str:
    """Check what boxes and people are told of the rollout."""
    pace = _pace(box)
    must(
        (pace["version"], pace["state"]) == (release, "held"),
        f"The timestamp does not hold {release}: {pace}",
    )
    status, text = fleet.status(), fleet.text()
    silent = status["needs"]["silent"]
    must(machine in silent["some"], f"The machine {machine} is not among the silent: {silent}")
    must(silent["boxes"] == 3, f"Others than three boxes are silent: {silent}")
    running = {each["release"]: each["boxes"] for each in status["releases"]}
    must(running[release] == 2, f"More boxes run the release than two: {running}")
    if str(machine) not in text:
        raise Broken(f"The machine {machine} is not named: {text}")
    [change] = [each for each in status["changes"] if each["what"] == "hold"]
    return f"held: {change['because']}"


def _pace(box: VmBox) -> Any:
    timestamp = json.loads((box.updates / "tuf" / "timestamp.json").read_text())
    return timestamp["signed"][FIELD]["stable"]
