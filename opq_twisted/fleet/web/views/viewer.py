"""Who looks at the page."""

from attrs import frozen


@frozen(kw_only=True)
class Viewer:
    """A person or a program that has proved its name."""

    name: str
    #: Whether it may change anything.
    is_operator: bool
