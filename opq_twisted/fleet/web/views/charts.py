"""Draws charts of daily numbers."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from xml.etree import ElementTree as ET

from attrs import frozen

from opq_twisted.fleet.web.views.svg import HEIGHT, LEAST, WIDTH, add, make_root, to_text

#: A scale ends at one of these numbers times a power of ten, so that its half is a whole number.
_ENDS = (2, 4, 6, 8, 10)

#: The width of a bar, as a part of the width of a day.
_BAR = 0.7


@frozen
class Series:
    """The numbers of one colour, one for each day; None if the day was not counted."""

    #: The class of its shapes, for the style.
    name: str
    values: Sequence[int | None]


@frozen
class Chart:
    """A drawing, and the number at its top; its bottom is 0."""

    svg: str
    top: int


def stacked_area(title: str, description: str, series: Sequence[Series]) -> Chart:
    """
    Draw areas on top of each other, the first one at the top.

    :param title: the name of the chart, for those who cannot see it.
    :param description: what it shows, in a sentence.
    """
    days = _days(series)
    top = _end(max(map(_sum, days), default=0))
    root = make_root(title, description)
    for first, last in _runs(days):
        # The upper edge of each series, from the bottom of the chart upwards.
        edges = [
            [0.0, *accumulate(max(0, value or 0) for value in reversed(day))]
            for day in days[first:last]
        ]
        for place, each in enumerate(reversed(series)):
            lower = [edge[place] for edge in edges]
            upper = [edge[place + 1] for edge in edges]
            if any(above > below for above, below in zip(upper, lower, strict=True)):
                _area(root, each.name, first, len(days), lower, upper, top)
    return _chart(root, top)


def bars(title: str, description: str, series: Sequence[Series]) -> Chart:
    """
    Draw a bar for each day, in which the series are on top of each other, the first at the bottom.

    :param title: the name of the chart, for those who cannot see it.
    :param description: what it shows, in a sentence.
    """
    days = _days(series)
    top = _end(max(map(_sum, days), default=0))
    root = make_root(title, description)
    for number, day in enumerate(days):
        bottom = 0.0
        for each, value in zip(series, day, strict=True):
            if value is not None and value > 0:
                height = max(LEAST, HEIGHT * value / top)
                height = min(height, HEIGHT - bottom)
                _bar(root, each.name, number, len(days), bottom, height)
                bottom += height
    return _chart(root, top)


def _days(series: Sequence[Series]) -> list[list[int | None]]:
    return [list(day) for day in zip(*(each.values for each in series), strict=True)]


def _sum(day: Iterable[int | None]) -> int:
    return sum(max(0, value or 0) for value in day)


def _end(most: int) -> int:
    """Return the end of a scale for numbers up to `most`."""
    power = 1
    while True:
        for end in _ENDS:
            if end * power >= most:
                return end * power
        power *= 10


def _runs(days: Sequence[Sequence[int | None]]) -> Iterable[tuple[int, int]]:
    """Yield the first day, and the one after the last, of each run of days that were counted."""
    start = None
    for number, day in enumerate([*days, [None]]):
        is_counted = any(value is not None for value in day)
        if is_counted and start is None:
            start = number
        if not is_counted and start is not None:
            yield start, number
            start = None


def _area(
    root: ET.Element,
    name: str,
    first: int,
    days: int,
    lower: Sequence[float],
    upper: Sequence[float],
    top: int,
) -> None:
    # Each day is a horizontal step, so that a single day has a width, and the last one reaches the
    # edge.
    points = [*_steps(first, days, upper, top), *reversed([*_steps(first, days, lower, top)])]
    data = "M" + " L".join(f"{x:.2f},{y:.2f}" for x, y in points) + " Z"
    add(root, "path", d=data, **{"class": name})


def _steps(
    first: int, days: int, heights: Sequence[float], top: int
) -> Iterable[tuple[float, float]]:
    for number, height in enumerate(heights, first):
        y = HEIGHT - HEIGHT * height / top
        yield WIDTH * number / days, y
        yield WIDTH * (number + 1) / days, y


def _bar(root: ET.Element, name: str, number: int, days: int, bottom: float, height: float) -> None:
    day = WIDTH / days
    x, y = day * (number + (1 - _BAR) / 2), HEIGHT - bottom - height
    add(root, "rect", x=x, y=y, width=day * _BAR, height=height, **{"class": name})


def _chart(root: ET.Element, top: int) -> Chart:
    for y in (0, HEIGHT // 2, HEIGHT):
        add(root, "line", x1=0, y1=y, x2=WIDTH, y2=y, **{"class": "grid"})
    return Chart(to_text(root), top)
