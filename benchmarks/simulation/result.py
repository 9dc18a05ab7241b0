"""What became of one simulated rollout."""

from attrs import define


@define
class Result:
    """The end of a walk."""

    #: Days after the announcement at which it was held; None if it was not.
    held: float | None = None
    #: The step in which it was held, from 0; and the bad boxes that were counted by then.
    step: int = 0
    bad: int = 0
    #: The boxes that began to install it.
    boxes: int = 0
    #: Whether a person was asked.
    asked: bool = False
    #: Days until it was out to all boxes; None if it did not get there.
    walk: float | None = None
