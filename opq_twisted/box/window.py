"""A part of the day, by the box's own clock on the wall."""

import re
from collections.abc import Callable
from datetime import datetime, time
from itertools import count

from attrs import field, frozen

_TIMES = re.compile(r"((?:[01]\d|2[0-3]):[0-5]\d)-((?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII)


def _another(window: "DailyWindow", _: object, end: time) -> None:
    if end == window.start:
        raise ValueError(
            f"must not end when it begins, at {end:%H:%M}; leave it out for the whole day"
        )


@frozen
class DailyWindow:
    """
    From one time of the day to another, over midnight if that is earlier.

    What counts is what a clock on the wall shows. When it is set back, the hour that comes twice is
    open twice; when it is set forward, what lies in the hour that is left out does not come.
    """

    start: time
    end: time = field(validator=_another)

    @classmethod
    def parse(cls, text: str) -> "DailyWindow":
        """
        Read "02:00-04:00".

        :raises ValueError: when it is not like that, or ends when it begins.
        """
        match = _TIMES.fullmatch(text)
        if match is None:
            raise ValueError(f'must be like "02:00-04:00", not {text[:40]!r}')
        return cls(time.fromisoformat(match[1]), time.fromisoformat(match[2]))

    def __str__(self) -> str:
        return f"between {self.start:%H:%M} and {self.end:%H:%M}"

    def is_open(self, now: float) -> bool:
        """Whether it is open at a time, in seconds since the epoch."""
        shown = datetime.fromtimestamp(now).time()
        if self.start < self.end:
            return self.start <= shown < self.end
        return shown >= self.start or shown < self.end

    def until_open(self, now: float) -> float:
        """Seconds until it is open; 0 when it is."""
        return _until(self.is_open, now)

    def until_closed(self, now: float) -> float:
        """Seconds until it is shut; 0 when it is."""
        return _until(lambda moment: not self.is_open(moment), now)


def _until(condition: Callable[[float], bool], now: float) -> float:
    """
    Seconds until a condition holds, which changes with a full minute only.

    Each minute is looked at: no rule is needed for days that have no such time, or have it twice,
    and a whole day takes a few milliseconds.
    """
    if condition(now):
        return 0.0
    # All zones differ from UTC by full minutes.
    return next(moment for moment in count(now - now % 60 + 60, 60) if condition(moment)) - now
