"""Removes snapshots and targets that no timestamp leads to any more."""

import os
from contextlib import suppress
from datetime import datetime
from itertools import pairwise

from tuf.api.metadata import Snapshot, Targets

from opq_twisted.server.timestamp.select import MetadataSet
from opq_twisted.server.timestamp.sign import LIFE
from opq_twisted.server.timestamp.store import MetadataFolder
from opq_twisted.signing.repository import KEPT


def remove_superseded(folder: MetadataFolder, announced: MetadataSet, now: datetime) -> list[str]:
    """
    Remove what was superseded longer ago than any timestamp lives.

    A box that is looking up the metadata may still follow the timestamp before. The newest files
    stay in any case, as `opq-release` keeps them too, and would copy them here again. Roots stay
    for ever: boxes go through all of them.

    :param announced: what the current timestamp leads to.
    :returns: the names of the files that were removed.
    """
    removed = []
    for role, number in (
        (Snapshot.type, announced.version),
        (Targets.type, announced.targets.signed.version),
    ):
        numbers = [each for each in folder.versions(role) if each <= number]
        pairs = list(pairwise(numbers[KEPT - 1 :]))
        for successor, each in reversed(pairs):
            name = f"{each}.{role}.json"
            # It may not be ours to remove. It costs a little room then, and nothing else.
            with suppress(OSError):
                since = os.stat(folder.path / f"{successor}.{role}.json").st_mtime
                if now.timestamp() - since > LIFE.total_seconds():
                    os.unlink(folder.path / name)
                    removed.append(name)
    return removed
