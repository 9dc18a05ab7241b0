"""The results that the small boxes of the demo have when they install a release."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum


class Fate(StrEnum):
    """The result of an installation on a small box."""

    #: The box runs the release from then on.
    UPDATED = "updated"
    #: The release is not healthy: the box goes back to its last good release.
    RETURNED = "returned"
    #: The box sends no report any more.
    SILENT = "silent"


class Fates:
    """Gives each box that installs a release the next fate of that release."""

    def __init__(self, by_release: Mapping[int, Sequence[Fate]]) -> None:
        """:param by_release: the fates of each release, repeated after the last one."""
        self._dealt: dict[int, Iterator[Fate]] = {
            release: itertools.cycle(fates) for release, fates in by_release.items()
        }

    def deal(self, release: int) -> Fate:
        """Return the fate of the next box; a release without fates is a good one."""
        return next(self._dealt.get(release, iter(())), Fate.UPDATED)
