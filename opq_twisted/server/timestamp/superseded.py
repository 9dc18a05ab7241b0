"""Removes snapshots and targets that no timestamp leads to any more."""

import os
from contextlib import suppress
from datetime import datetime
from itertools import pairwise

from opq_twisted.server.timestamp.sign import LIFETIME
from opq_twisted.server.timestamp.store import MetadataFolder
from opq_twisted.trust.repository_reader import KEPT, MetadataSet


def remove_superseded(folder: MetadataFolder, announced: MetadataSet, now: datetime) -> None:
    """
    Remove files that were superseded longer ago than any timestamp lives.

    A box that is looking up the metadata may still follow the previous timestamp. The newest files
    stay in any case: `opq-release` keeps them too, and would copy them here again. Roots stay for
    ever, because boxes go through all of them.

    :param announced: the current timestamp, and the metadata that it names.
    """
    for role, document in announced.documents.items():
        numbers = [each for each in folder.versions(role) if each <= document.version]
        pairs = list(pairwise(numbers[KEPT - 1 :]))
        for successor, each in reversed(pairs):
            # A file that belongs to another user stays, and does no harm.
            with suppress(OSError):
                since = os.stat(folder.folder / f"{successor}.{role}.json").st_mtime
                if now.timestamp() - since > LIFETIME.total_seconds():
                    os.unlink(folder.folder / f"{each}.{role}.json")
