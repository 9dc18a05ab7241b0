"""Simulated boxes: when they can be reached, and when they report without an installation."""

from bisect import bisect_right
from math import inf
from random import Random

from attrs import define, field

from benchmarks.simulation.absences import BEGIN, DAY, HOUR, MINUTE
from benchmarks.simulation.homes import Home

#: Seconds between two reports of a box that waits for its turn, or has updated within a day; and
#: between those of others. A report promises the next one.
OFTEN, RARELY = 3 * HOUR, DAY


@define(eq=False)
class Box:
    """A box of the fleet."""

    home: Home
    random: Random

    #: When it was last heard, when its next report is due, and when it comes.
    last_seen: float = field(init=False, default=BEGIN)
    due: float = field(init=False, default=BEGIN)
    next_report: float = field(init=False)
    #: Since when it runs the new release; infinite if it does not.
    updated_at: float = field(init=False, default=inf)

    def __attrs_post_init__(self) -> None:
        self.next_report = BEGIN + RARELY * self.random.random()

    def back_at(self, time: float) -> float:
        """Return the time at which it can be reached; the given one if it can be."""
        absences = self.home.absences
        index = bisect_right(absences, time)
        return absences[index] if index % 2 else time

    def is_there_in(self, start: float, end: float) -> bool:
        """Whether it could be reached at any time of a period."""
        return self.back_at(start) < end

    def heard(self, time: float) -> None:
        """Note a report that the server has received."""
        self.last_seen = time
        gap = OFTEN if time < self.updated_at + DAY else RARELY
        self.due = time + gap
        # See `box.report.renewal`.
        self.next_report = time + gap - 30 * MINUTE - HOUR * self.random.random()

    def after_absence(self, back: float) -> float:
        """Return the time of its first check after an absence."""
        return back + self.random.uniform(1 * MINUTE, 20 * MINUTE)
