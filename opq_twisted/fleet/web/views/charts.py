"""Draws charts as SVG: only their shapes, because a page can set text better beside them."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from xml.etree import ElementTree as ET

from attrs import frozen

#: The size of the view box; the page stretches it.
WIDTH, HEIGHT = 600, 160

#: The height of a chart of few numbers.
_LOW = 60

#: What a scale may end at, in powers of ten: its half must be a whole number.
_ENDS = (2, 4, 6, 8, 10)

#: The part of its day that a bar fills, and the height of one that would be too small to see.
_BAR, _LEAST = 0.7, 3.0


@frozen
class Series:
    """The numbers of one colour, one for each day; None where nobody has counted."""

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
    root = _root(title, description)
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
    root = _root(title, description)
    for number, day in enumerate(days):
        bottom = 0.0
        for each, value in zip(series, day, strict=True):
            if value is not None and value > 0:
                height = max(_LEAST, HEIGHT * value / top)
                height = min(height, HEIGHT - bottom)
                _bar(root, each.name, number, len(days), bottom, height)
                bottom += height
    return _chart(root, top)


def share_steps(
    title: str, description: str, shares: Sequence[tuple[float, float, str]], end: float
) -> str:
    """
    Draw how a share changes.

    :param shares: for each change its time, the share after it (from 0 to 1), and its class.
    :param end: the time at the right edge.
    """
    root = _root(title, description, _LOW)
    start = min([end, *(at for at, _, _ in shares)])
    scale = WIDTH / (end - start) if end > start else 0.0
    following = [*(at for at, _, _ in shares[1:]), end]
    for (at, share, name), until in zip(shares, following, strict=False):
        # A clock that was set back has written times in the wrong order.
        x, width = scale * (min(at, end) - start), scale * max(0.0, min(until, end) - at)
        height = max(_LEAST, _LOW * min(1.0, max(0.0, share)))
        _add(root, "rect", x=x, y=_LOW - height, width=width, height=height, **{"class": name})
    return _text(root)


def share_bar(title: str, parts: Iterable[tuple[str, int]], whole: int) -> str:
    """
    Draw the parts of a whole as one bar, each with its class and number; none is too thin to see.

    :param whole: at least the sum of the parts.
    """
    shown = [(name, number) for name, number in parts if number > 0]
    # So much of the bar is left for the parts that are not too thin.
    room = WIDTH - _LEAST * 2 * len(shown)
    root, x = _root(title, None, height=12), 0.0
    for name, number in shown:
        width = _LEAST * 2 + room * number / max(1, whole)
        _add(root, "rect", x=x, y=0, width=min(width, WIDTH - x), height=12, **{"class": name})
        x += width
    return _text(root)


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
    # Each day is a step: so a single day has a width, and the last one reaches the edge.
    points = [*_steps(first, days, upper, top), *reversed([*_steps(first, days, lower, top)])]
    data = "M" + " L".join(f"{x:.2f},{y:.2f}" for x, y in points) + " Z"
    _add(root, "path", d=data, **{"class": name})


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
    _add(root, "rect", x=x, y=y, width=day * _BAR, height=height, **{"class": name})


def _root(title: str, description: str | None, height: int = HEIGHT) -> ET.Element:
    root = ET.Element(
        "svg", viewBox=f"0 0 {WIDTH} {height}", preserveAspectRatio="none", role="img"
    )
    ET.SubElement(root, "title").text = _clean(title)
    if description is not None:
        ET.SubElement(root, "desc").text = _clean(description)
    return root


def _chart(root: ET.Element, top: int) -> Chart:
    for y in (0, HEIGHT // 2, HEIGHT):
        _add(root, "line", x1=0, y1=y, x2=WIDTH, y2=y, **{"class": "grid"})
    return Chart(_text(root), top)


def _add(root: ET.Element, tag: str, **attributes: float | str) -> None:
    texts = {
        name: value if isinstance(value, str) else f"{value:.2f}".removesuffix(".00")
        for name, value in attributes.items()
    }
    ET.SubElement(root, tag, texts)


def _text(root: ET.Element) -> str:
    return ET.tostring(root, encoding="unicode")


def _clean(text: str) -> str:
    """Remove characters that XML cannot have."""
    return "".join(each for each in text if each.isprintable())
