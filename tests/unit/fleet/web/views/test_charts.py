"""The charts, for any numbers."""

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.web.views.charts import Series, bars, stacked_area
from tests.helpers.svg_shapes import shapes
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


class ChartTests(SynchronousTestCase):
    """Draws charts."""

    @examples(60)
    @given(_SERIES, _TEXTS, _TEXTS)
    def test_area(self, series: Sequence[Series], title: str, description: str) -> None:
        """It is XML, within its view box, and its scale is large enough."""
        chart = stacked_area(title, description, series)
        shapes(chart.svg)
        self.assertEqual(chart.top % 2, 0)
        for day in zip(*(each.values for each in series), strict=True):
            self.assertLessEqual(sum(max(0, each or 0) for each in day), chart.top)

    @examples(60)
    @given(_SERIES, _TEXTS, _TEXTS)
    def test_bars(self, series: Sequence[Series], title: str, description: str) -> None:
        """It is XML, within its view box, and each number has a bar."""
        chart = bars(title, description, series)
        expected = sum((each or 0) > 0 for line in series for each in line.values)
        self.assertEqual(len(shapes(chart.svg)), expected)

    def test_empty(self) -> None:
        """Without numbers only the lines are there."""
        for chart in (stacked_area("a", "b", []), bars("a", "b", [Series("s0", [None] * 30)])):
            self.assertEqual((shapes(chart.svg), chart.top), ([], 2))

    def test_gap(self) -> None:
        """A day that nobody counted is a gap, and not a zero."""
        chart = stacked_area("a", "b", [Series("s0", [5, None, 7])])
        self.assertEqual(len(shapes(chart.svg)), 2)

    def test_order(self) -> None:
        """The first series of an area is at the top."""
        chart = stacked_area("a", "b", [Series("new", [2]), Series("old", [8])])
        old, new = shapes(chart.svg)
        self.assertEqual((old.get("class"), new.get("class")), ("old", "new"))
        self.assertTrue(new.get("d", "").startswith("M0.00,0.00"))

    def test_words(self) -> None:
        """A chart says what it shows."""
        root = ET.fromstring(bars("Outcomes <a>", "Of each day.", []).svg)
        self.assertEqual(
            [root.findtext("title"), root.findtext("desc")], ["Outcomes <a>", "Of each day."]
        )
