"""A daily time window in the box's local time, in which automatic installs may start."""

import re
from collections.abc import Callable
from datetime import datetime, time
from itertools import count

from attrs import field, frozen

_TIMES = re.compile(r"((?:[01]\d|2[0-3]):[0-5]\d)-((?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII)


def _end_differs(window: "DailyWindow", _: object, end: time) -> None:
    if end == window.start:
        raise ValueError(
            f"must not start and end at the same time, {end:%H:%M}; leave it out for the whole day"
        )


@frozen
class DailyWindow:
    """
    A time window that opens each day.

    If `end` is earlier than `start`, the window spans midnight. When daylight saving time ends, the
    times of the repeated hour match twice. When it starts, a window within the skipped hour does
    not open on that day.
    """

    start: time
    end: time = field(validator=_end_differs)

    @classmethod
    def parse(cls, text: str) -> "DailyWindow":
        """Parse a window such as "02:00-04:00"; raises ValueError if it is not one."""
        match = _TIMES.fullmatch(text)
        if match is None:
            raise ValueError(f'must be like "02:00-04:00", not {text[:40]!r}')
        return cls(time.fromisoformat(match[1]), time.fromisoformat(match[2]))

    def __str__(self) -> str:
        return f"between {self.start:%H:%M} and {self.end:%H:%M}"

    def is_open(self, now: float) -> bool:
        """Whether the window is open at a time, in seconds since the epoch."""
        local = datetime.fromtimestamp(now).time()
        if self.start < self.end:
            return self.start <= local < self.end
        return local >= self.start or local < self.end

    def until_open(self, now: float) -> float:
        """Return the seconds until the window opens; 0 if it is open."""
        return _until(self.is_open, now)

    def until_closed(self, now: float) -> float:
        """Return the seconds until the window closes; 0 if it is closed."""
        return _until(lambda moment: not self.is_open(moment), now)


def _until(condition: Callable[[float], bool], now: float) -> float:
    """
    Return the seconds until a condition, which changes only at full minutes, is true.

    Testing every minute of a day takes a few milliseconds, and needs no special case for daylight
    saving time.
    """
    if condition(now):
        return 0.0
    # All time zones differ from UTC by full minutes.
    return next(moment for moment in count(now - now % 60 + 60, 60) if condition(moment)) - now
