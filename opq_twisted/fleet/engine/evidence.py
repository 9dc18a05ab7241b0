"""The facts about the boxes of a rollout at one moment."""

from collections.abc import Mapping

from attrs import Factory, frozen

from opq_twisted.fleet.engine.sequential_test import SequentialTest


@frozen(kw_only=True)
class Evidence:
    """
    The numbers of the boxes whose results matter for a rollout, each counted by its worst attempt.

    A box that failed because of its network or its own hardware is in none of the numbers.
    """

    #: Boxes that run the release, and have confirmed it.
    well: int = 0
    #: Bad boxes by the reason, such as `unhealthy-service` or `silent`.
    bad_by_reason: Mapping[str, int] = Factory(dict)
    #: Boxes that have begun an attempt which has not ended.
    under_way: int = 0
    #: Boxes of `under_way` that are silent, and the cause may be the release or the network.
    unclear: int = 0
    #: Boxes of `under_way` that began after the last one of the bad boxes.
    too_early: int = 0
    #: Boxes whose turn has come, and that were seen in this step.
    drawn: int = 0
    #: Boxes of `drawn` whose attempt has ended.
    ended: int = 0
    #: Says how many bad boxes are too many.
    test: SequentialTest

    @property
    def bad(self) -> int:
        """The number of bad boxes."""
        return sum(self.bad_by_reason.values())

    @property
    def boxes(self) -> int:
        """The boxes that began to install."""
        return self.well + self.bad + self.under_way

    @property
    def tested(self) -> int:
        """
        The number of boxes for the test: those that began no later than the last bad one.

        The test takes the boxes in the order in which they began, and may end after each of them.
        In a large fleet a hundred boxes begin before the first one can fail. If they counted as
        good, the test would need more bad boxes for a hold.
        """
        return self.boxes - self.too_early

    @property
    def is_held(self) -> bool:
        """Whether so many boxes are bad that no other may install the release."""
        return self.test.rejects(self.bad, self.tested)

    @property
    def is_perhaps_held(self) -> bool:
        """Whether the test would hold the release if all unclear boxes were bad."""
        return self.test.rejects(self.bad + self.unclear, self.boxes)

    @property
    def is_inconclusive(self) -> bool:
        """Whether a person has to decide before more boxes install the release."""
        doubtful = self.bad + self.unclear
        return not self.well or doubtful >= self.test.middle * (self.well + doubtful)
