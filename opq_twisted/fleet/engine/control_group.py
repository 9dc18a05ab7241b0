"""Tells a box that an update has silenced from one whose network is down."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import accumulate

from attrs import frozen

#: The share of silent boxes among the controls above which it is the network, or the server.
MOST_SILENT = 0.1

#: The share of silent boxes among the controls above which the network may have silenced a box, if
#: they are so many at least. It is small because all boxes of a step install at the same time: of
#: them an outage silences as large a share as of the controls, and more bad boxes than this hold a
#: release.
_SOME_SILENT, _SOME = 0.03, 3

#: Controls below which nothing can be said.
_LEAST = 5


@frozen
class Controls:
    """How the boxes that installed nothing fared from a moment on."""

    #: Boxes that were heard later.
    heard: int
    #: Boxes that were to be heard later, and were not.
    missing: int

    @property
    def share(self) -> float:
        """The share of the boxes that are missing."""
        return self.missing / (self.heard + self.missing) if self.missing else 0.0

    @property
    def can_tell(self) -> bool:
        """Whether there are enough boxes."""
        return self.heard + self.missing >= _LEAST

    @property
    def are_silent(self) -> bool:
        """Whether so many boxes are missing that it is the network, or the server."""
        return self.share > MOST_SILENT

    @property
    def explain_silence(self) -> bool:
        """Whether a box that fell silent at the same time may have lost its network as they did."""
        return self.are_silent or (self.missing >= _SOME and self.share > _SOME_SILENT)


class ControlGroup:
    """
    The boxes of a channel that are not in the middle of an installation.

    Each report of a box promises the next one. A box that was heard before a moment, whose promise
    reached beyond it, and who has not kept it, fell silent about then.
    """

    def __init__(
        self,
        last_seen: Iterable[tuple[float, int]],
        missing: Iterable[tuple[float, float]],
        margin: float,
    ) -> None:
        """
        :param last_seen: times of last reports, and the number of boxes for each.
        :param missing: for each box that has broken its promise, the times of its last report and
            of the one that was due.
        :param margin: seconds that an installation takes at most.
        """
        counts = sorted(last_seen)
        self._times = [time for time, _ in counts]
        self._until = [0, *accumulate(boxes for _, boxes in counts)]
        broken = list(missing)
        self._seen = sorted(seen for seen, _ in broken)
        self._due = sorted(due for _, due in broken)
        self._margin = margin

    def since(self, moment: float) -> Controls:
        """Return how the boxes fared that were there at a moment, when a box was last heard."""
        later = moment + self._margin
        heard = self._until[-1] - self._until[bisect_right(self._times, later)]
        missing = bisect_right(self._seen, later) - bisect_left(self._due, moment)
        return Controls(heard, max(0, missing))
