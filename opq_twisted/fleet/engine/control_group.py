"""Tells a box that an update has silenced from one whose network is down."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import accumulate

from attrs import frozen

#: If a larger share of the controls is silent, the cause is the network or the server.
MOST_SILENT = 0.1

#: If a larger share of the controls is silent, and at least this number of them, the network may
#: also have silenced a box that was installing. The share is small because all boxes of a step
#: install at the same time. An outage silences the same share of them as of the controls, and a
#: release is held if only a few percent of its boxes are bad.
_SOME_SILENT, _SOME = 0.03, 3

#: With fewer controls, their share says nothing.
_LEAST = 5


@frozen
class Controls:
    """The controls are boxes that installed nothing: how many were heard after a moment."""

    #: Boxes that were heard after the moment.
    heard: int
    #: Boxes that had promised a report after the moment, and did not send it.
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
        """Whether so many boxes are missing that the network or the server is the cause."""
        return self.share > MOST_SILENT

    @property
    def explain_silence(self) -> bool:
        """Whether the network may also have silenced a box that fell silent at the same time."""
        return self.are_silent or (self.missing >= _SOME and self.share > _SOME_SILENT)


class ControlGroup:
    """
    The boxes of a channel that are not in the middle of an installation.

    Each report of a box promises a time for the next one. A box fell silent at about a moment if
    its last report came before the moment, its next report was due later, and never came.
    """

    def __init__(
        self,
        last_seen: Iterable[tuple[float, int]],
        missing: Iterable[tuple[float, float]],
        margin: float,
    ) -> None:
        """
        :param last_seen: the times of the last reports, each with the number of its boxes.
        :param missing: for each box that has broken its promise, the time of its last report, and
            the time when the next one was due.
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
        """
        Count the controls that were heard after a moment, and those that were not.

        :param moment: usually the time when a box that was installing was last heard.
        """
        later = moment + self._margin
        heard = self._until[-1] - self._until[bisect_right(self._times, later)]
        missing = bisect_right(self._seen, later) - bisect_left(self._due, moment)
        return Controls(heard, max(0, missing))
