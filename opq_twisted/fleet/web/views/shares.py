"""Draws the share of a rollout over time, and the parts of a whole."""

from collections.abc import Iterable, Sequence

from opq_twisted.fleet.web.views.svg import LEAST, WIDTH, add, make_root, to_text

#: The heights of the two drawings.
_STEPS_HEIGHT, _BAR_HEIGHT = 60, 12


def share_steps(
    title: str, description: str, shares: Sequence[tuple[float, float, str]], end: float
) -> str:
    """
    Draw how a share changes.

    :param shares: for each change its time, the share after it (from 0 to 1), and its class.
    :param end: the time at the right edge.
    """
    root = make_root(title, description, _STEPS_HEIGHT)
    start = min([end, *(at for at, _, _ in shares)])
    scale = WIDTH / (end - start) if end > start else 0.0
    following = [*(at for at, _, _ in shares[1:]), end]
    for (at, share, name), until in zip(shares, following, strict=False):
        # A clock that was set back has written times in the wrong order.
        x, width = scale * (min(at, end) - start), scale * max(0.0, min(until, end) - at)
        height = max(LEAST, _STEPS_HEIGHT * min(1.0, max(0.0, share)))
        add(
            root,
            "rect",
            x=x,
            y=_STEPS_HEIGHT - height,
            width=width,
            height=height,
            **{"class": name},
        )
    return to_text(root)


def share_bar(title: str, parts: Iterable[tuple[str, int]], whole: int) -> str:
    """
    Draw the parts of a whole as one bar; each part is wide enough to be seen.

    :param parts: the class and the number of each part.
    :param whole: at least the sum of the parts.
    """
    shown = [(name, number) for name, number in parts if number > 0]
    # Each part gets the least width, and they share the remaining one by their numbers.
    room = WIDTH - LEAST * 2 * len(shown)
    root, x = make_root(title, None, height=_BAR_HEIGHT), 0.0
    for name, number in shown:
        width = LEAST * 2 + room * number / max(1, whole)
        add(
            root,
            "rect",
            x=x,
            y=0,
            width=min(width, WIDTH - x),
            height=_BAR_HEIGHT,
            **{"class": name},
        )
        x += width
    return to_text(root)
