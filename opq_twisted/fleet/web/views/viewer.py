"""The person or program that requests a page."""

from attrs import frozen


@frozen(kw_only=True)
class Viewer:
    """An authenticated person or program."""

    name: str
    #: Whether it may change anything.
    is_operator: bool
