"""The times at which a simulated box cannot be reached, by the habits of its owner."""

from itertools import pairwise
from math import exp, log
from random import Random

from attrs import frozen

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

#: Seconds: the simulated time begins before the announcement, and ends after the walk.
BEGIN, END = -2 * DAY, 14 * DAY


@frozen(kw_only=True)
class Habits:
    """The shares of the boxes that are often absent, and how often."""

    #: Off every night, from an hour between 22 and 1 o'clock to one between 6 and 9.
    nightly: float = 0.08
    #: With bad Wi-Fi: away every 18 hours on average, half of the times for more than 40 minutes,
    #: and now and then for half a day.
    bad_wifi: float = 0.10
    #: Seconds between the times at which an owner unplugs a box, and those until it is back.
    plugged: float = 200 * DAY
    unplugged: float = 10 * DAY
    #: Seconds between the short breaks that every box has: a start, or the router's.
    between_breaks: float = 10 * DAY


def absences(habits: Habits, random: Random) -> list[float]:
    """Return the times at which a box goes away and comes back in turn; it begins there."""
    periods = [*_unplugged(habits, random), *_breaks(habits, random)]
    kind = random.random()
    if kind < habits.nightly:
        periods += _nights(random)
    elif kind < habits.nightly + habits.bad_wifi:
        periods += _bad_wifi(random)
    return merge(periods)


def merge(periods: list[tuple[float, float]]) -> list[float]:
    """Join periods that overlap, and return their ends in turn."""
    merged: list[float] = []
    for start, end in sorted(periods):
        if merged and start <= merged[-1]:
            merged[-1] = max(merged[-1], end)
        else:
            merged += start, end
    assert all(earlier <= later for earlier, later in pairwise(merged))
    return merged


def _unplugged(habits: Habits, random: Random) -> list[tuple[float, float]]:
    periods = []
    is_off = random.random() < habits.unplugged / (habits.plugged + habits.unplugged)
    time = BEGIN if is_off else BEGIN + _exponential(random, habits.plugged)
    while time < END:
        back = time + _exponential(random, habits.unplugged)
        periods.append((time, back))
        time = back + _exponential(random, habits.plugged)
    return periods


def _breaks(habits: Habits, random: Random) -> list[tuple[float, float]]:
    periods = []
    time = BEGIN + _exponential(random, habits.between_breaks)
    while time < END:
        back = time + random.uniform(1 * MINUTE, 30 * MINUTE)
        periods.append((time, back))
        time = back + _exponential(random, habits.between_breaks)
    return periods


def _nights(random: Random) -> list[tuple[float, float]]:
    off, on = random.uniform(22, 25) * HOUR, random.uniform(30, 33) * HOUR
    return [
        (day * DAY + random.gauss(off, 15 * MINUTE), day * DAY + random.gauss(on, 15 * MINUTE))
        for day in range(int(BEGIN // DAY), int(END // DAY))
    ]


def _bad_wifi(random: Random) -> list[tuple[float, float]]:
    periods = []
    time = BEGIN + _exponential(random, 18 * HOUR)
    while time < END:
        back = time + min(12 * HOUR, 40 * MINUTE * exp(random.gauss(0.0, 1.3)))
        periods.append((time, back))
        time = back + _exponential(random, 18 * HOUR)
    return periods


def _exponential(random: Random, mean: float) -> float:
    return -mean * log(1.0 - random.random())
