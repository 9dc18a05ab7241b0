"""Says what becomes of the small boxes that install a release."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum


class Fate(StrEnum):
    """What an installation does to a small box."""

    #: The box runs the release from then on.
    UPDATED = "updated"
    #: The release is not healthy: the box goes back to the one before.
    RETURNED = "returned"
    #: The box is never heard again.
    SILENT = "silent"


class Fates:
    """Deals the fates of a release to the boxes in the order in which they install it."""

    def __init__(self, by_release: Mapping[int, Sequence[Fate]]) -> None:
        """:param by_release: after the last fate of a release comes its first one again."""
        self._dealt: dict[int, Iterator[Fate]] = {
            release: itertools.cycle(fates) for release, fates in by_release.items()
        }

    def deal(self, release: int) -> Fate:
        """Choose what becomes of the next box; a release without fates is a good one."""
        return next(self._dealt.get(release, iter(())), Fate.UPDATED)
