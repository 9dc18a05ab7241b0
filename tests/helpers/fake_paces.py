"""A source of paces for a test."""

from collections.abc import Mapping, Sequence
from typing import Any

from opq_twisted.trust.pace import ChannelRelease, Pace


class FakePaces:
    """Returns prescribed paces, or raises an error."""

    def __init__(self) -> None:
        self.asks = False
        #: May be nonsense.
        self.paces: Any = {}
        self.error: Exception | None = None
        #: The releases of the last question.
        self.asked: Sequence[ChannelRelease] = ()

    def __call__(self, releases: Sequence[ChannelRelease], /) -> Mapping[str, Pace]:
        self.asked = releases
        if self.error is not None:
            raise self.error
        paces: Mapping[str, Pace] = self.paces
        return paces
