"""The hours of the week in which the engine widens rollouts."""

import re
from datetime import datetime

from attrs import frozen

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = f"({'|'.join(_DAYS)})"
_HOURS = re.compile(rf"{_DAY}(?:-{_DAY})?/(\d\d)-(\d\d)", re.ASCII | re.IGNORECASE)


@frozen
class WidenHours:
    """
    Some hours of some days of the week, in the local time of the machine; by default all of them.

    In these hours people are there to act. So they are hours of local time, also in summer.
    """

    #: Days of the week: Monday is 0.
    days: frozenset[int] = frozenset(range(7))
    #: The first hour, and the hour after the last one.
    start: int = 0
    end: int = 24

    @classmethod
    def parse(cls, text: str) -> "WidenHours":
        """
        Parse hours such as `Mon-Thu/08-16` or `Fri/08-12`; days may go over the end of a week.

        :raises ValueError: if the text is not one of these.
        """
        match = _HOURS.fullmatch(text)
        if match is None:
            raise ValueError("give days and hours such as Mon-Thu/08-16.")
        start, end = int(match[3]), int(match[4])
        if not start < end <= 24:
            raise ValueError("the first hour must be before the second one, which is at most 24.")
        first = _DAYS.index(match[1].lower())
        last = first if match[2] is None else _DAYS.index(match[2].lower())
        return cls(
            frozenset((first + each) % 7 for each in range((last - first) % 7 + 1)), start, end
        )

    def include(self, now: float) -> bool:
        """Whether a time is in these hours, in seconds since the epoch."""
        local = datetime.fromtimestamp(now)
        return local.weekday() in self.days and self.start <= local.hour < self.end
