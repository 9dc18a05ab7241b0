"""The charts, for any numbers."""

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.web.views.charts import (
    HEIGHT,
    WIDTH,
    Series,
    bars,
    share_bar,
    share_steps,
    stacked_area,
)
from tests.helpers.torture import examples

_NUMBERS = st.one_of(st.none(), st.integers(-5, 10**12))


def _lists(days: int) -> st.SearchStrategy[list[list[int | None]]]:
    return st.lists(st.lists(_NUMBERS, min_size=days, max_size=days), max_size=3)


_SERIES = (
    st.integers(0, 6)
    .flatmap(_lists)
    .map(lambda lists: [Series(f"s{place}", each) for place, each in enumerate(lists)])
)
_TEXTS = st.text(max_size=5)


def _shapes(svg: str, height: int = HEIGHT) -> list[ET.Element]:
    """Check that all points are in the view box; returns the shapes that have a colour."""
    root = ET.fromstring(svg)
    shapes = [each for each in root if each.get("class") and each.get("class") != "grid"]
    for each in shapes:
        if each.tag == "path":
            points = re.findall(r"([\d.e-]+),([\d.e-]+)", each.get("d", ""))
        else:
            x, y, wide, high = (float(each.get(name, "")) for name in ("x", "y", "width", "height"))
            assert min(wide, high) >= 0
            points = [(x, y), (x + wide, y + high)]
        assert points
        for x, y in points:
            assert -0.02 <= float(x) <= WIDTH + 0.02, svg
            assert -0.02 <= float(y) <= height + 0.02, svg
    return shapes


class ChartTests(SynchronousTestCase):
    """Draws charts."""

    @examples(60)
    @given(_SERIES, _TEXTS, _TEXTS)
    def test_area(self, series: Sequence[Series], title: str, description: str) -> None:
        """It is XML, within its view box, and its scale is large enough."""
        chart = stacked_area(title, description, series)
        _shapes(chart.svg)
        self.assertEqual(chart.top % 2, 0)
        for day in zip(*(each.values for each in series), strict=True):
            self.assertLessEqual(sum(max(0, each or 0) for each in day), chart.top)

    @examples(60)
    @given(_SERIES, _TEXTS, _TEXTS)
    def test_bars(self, series: Sequence[Series], title: str, description: str) -> None:
        """It is XML, within its view box, and each number has a bar."""
        chart = bars(title, description, series)
        expected = sum((each or 0) > 0 for line in series for each in line.values)
        self.assertEqual(len(_shapes(chart.svg)), expected)

    @examples(60)
    @given(st.lists(st.integers(0, 10**9), max_size=6), st.integers(0, 10**9), _TEXTS)
    def test_share(self, numbers: Sequence[int], rest: int, title: str) -> None:
        """Each part can be seen."""
        parts = [(f"s{place}", number) for place, number in enumerate(numbers)]
        shapes = _shapes(share_bar(title, parts, sum(numbers) + rest), 12)
        self.assertEqual(len(shapes), sum(number > 0 for number in numbers))
        self.assertTrue(all(float(each.get("width", "")) >= 5.9 for each in shapes))

    @examples(60)
    @given(
        st.lists(
            st.tuples(st.floats(0, 2e9), st.floats(-1, 2), st.sampled_from(("s0", "bad"))),
            max_size=5,
        ),
        st.floats(0, 2e9),
    )
    def test_steps(self, shares: Sequence[tuple[float, float, str]], end: float) -> None:
        """Each change is within the view box, also if the clock was set back."""
        self.assertEqual(len(_shapes(share_steps("a", "b", shares, end), 60)), len(shares))

    def test_empty(self) -> None:
        """Without numbers only the lines are there."""
        for chart in (stacked_area("a", "b", []), bars("a", "b", [Series("s0", [None] * 30)])):
            self.assertEqual((_shapes(chart.svg), chart.top), ([], 2))

    def test_gap(self) -> None:
        """A day that nobody counted is a gap, and not a zero."""
        chart = stacked_area("a", "b", [Series("s0", [5, None, 7])])
        self.assertEqual(len(_shapes(chart.svg)), 2)

    def test_order(self) -> None:
        """The first series of an area is at the top."""
        chart = stacked_area("a", "b", [Series("new", [2]), Series("old", [8])])
        old, new = _shapes(chart.svg)
        self.assertEqual((old.get("class"), new.get("class")), ("old", "new"))
        self.assertTrue(new.get("d", "").startswith("M0.00,0.00"))

    def test_words(self) -> None:
        """A chart says what it shows."""
        root = ET.fromstring(bars("Outcomes <a>", "Of each day.", []).svg)
        self.assertEqual(
            [root.findtext("title"), root.findtext("desc")], ["Outcomes <a>", "Of each day."]
        )
