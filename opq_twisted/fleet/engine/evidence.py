"""What is known of a rollout at one moment."""

from collections.abc import Mapping

from attrs import Factory, frozen

from opq_twisted.fleet.engine.sequential_test import SequentialTest


@frozen(kw_only=True)
class Evidence:
    """
    The boxes that count in a rollout, each once, by its worst attempt.

    Failures of the network and of a box itself are in none of the numbers.
    """

    #: Boxes that run the release, and have confirmed it.
    well: int = 0
    #: Bad boxes by the reason, such as `unhealthy-service` or `silent`.
    bad_by_reason: Mapping[str, int] = Factory(dict)
    #: Boxes that are about to install, or do so.
    under_way: int = 0
    #: Those of them that are silent, while nobody can tell whether that is the release or the
    #: network.
    unclear: int = 0
    #: Those of them that began after the last one of the bad boxes.
    too_early: int = 0
    #: Boxes whose turn it is that were seen in this step, and those whose attempt has ended.
    drawn: int = 0
    ended: int = 0
    #: What the bad boxes are compared with.
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
        The boxes that the test is about: those that began no later than the last bad one.

        The test takes the boxes in the order in which they began, and may end after each of them.
        With the others it would need more bad boxes in a large fleet: a hundred boxes begin there
        before the first one can fail.
        """
        return self.boxes - self.too_early

    @property
    def is_held(self) -> bool:
        """Whether so many boxes are bad that no other may install the release."""
        return self.test.rejects(self.bad, self.tested)

    @property
    def is_perhaps_held(self) -> bool:
        """Whether so many would be bad if the release had silenced those that are unclear."""
        return self.test.rejects(self.bad + self.unclear, self.boxes)

    @property
    def is_inconclusive(self) -> bool:
        """Whether a person has to look before more boxes install the release."""
        doubtful = self.bad + self.unclear
        return not self.well or doubtful >= self.test.middle * (self.well + doubtful)
