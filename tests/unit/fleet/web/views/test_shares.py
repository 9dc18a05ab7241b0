"""The drawings of shares, for any numbers."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.web.views.shares import share_bar, share_steps
from tests.helpers.svg_shapes import shapes
from tests.helpers.torture import examples


class ShareTests(SynchronousTestCase):
    """Draws shares."""

    @examples(60)
    @given(st.lists(st.integers(0, 10**9), max_size=6), st.integers(0, 10**9), st.text(max_size=5))
    def test_share(self, numbers: Sequence[int], rest: int, title: str) -> None:
        """Each part can be seen."""
        parts = [(f"s{place}", number) for place, number in enumerate(numbers)]
        found = shapes(share_bar(title, parts, sum(numbers) + rest), 12)
        self.assertEqual(len(found), sum(number > 0 for number in numbers))
        self.assertTrue(all(float(each.get("width", "")) >= 5.9 for each in found))

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
        self.assertEqual(len(shapes(share_steps("a", "b", shares, end), 60)), len(shares))
