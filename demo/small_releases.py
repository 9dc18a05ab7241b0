"""Makes the tiny releases of the small boxes, with a good number of boxes in each step."""

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

from opq_twisted.archive.build.contents import find_script
from opq_twisted.archive.build.pack import pack
from opq_twisted.archive.name import INSTALL_SCRIPT, UpdateName
from opq_twisted.trust.offer import Rollout


def make_release(
    version: int, folder: Path, numbers: Sequence[int], shares: Sequence[float]
) -> Path:
    """
    Make a release whose first steps have their shares of the boxes, give or take less than one box.

    The SHA-256 of the archive decides which boxes are in a step. In a small fleet, 20 % may be no
    box at all, so archives are made until the numbers are right.

    :param numbers: the numbers of all boxes.
    :param shares: the shares of the steps, from 0 to 1.
    """
    folder.mkdir()
    script = folder / INSTALL_SCRIPT
    for attempt in itertools.count():
        script.write_text(f"#!/bin/sh\necho 'No box runs script {attempt}.'\n")
        archive = pack(UpdateName(version), {INSTALL_SCRIPT: find_script(script)}, folder)
        if all(
            abs(len(draw(archive, version, numbers, share)) - share * len(numbers)) < 1
            for share in shares
        ):
            return archive
        archive.unlink()
    raise AssertionError


def draw(archive: Path, version: int, numbers: Sequence[int], share: float) -> Sequence[int]:
    """Return the boxes whose turn has come at a share from 0 to 1."""
    rollout = Rollout(100, hashlib.sha256(archive.read_bytes()).hexdigest())
    return [each for each in numbers if rollout.includes(version, each, round(10_000 * share))]
