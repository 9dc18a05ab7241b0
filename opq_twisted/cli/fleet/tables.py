"""Prints tables that fit into 80 columns."""

from collections.abc import Iterable, Sequence
from itertools import islice

from opq_twisted.cli.program import say_line

_WIDTH = 80
_GAP = "  "

#: So many rows are read before the first one is printed, to find the widths of the columns.
_ROWS = 100


def say_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> bool:
    """
    Print rows under their titles; later rows are printed as soon as they are read.

    :returns: whether there was any row.
    """
    widths = [len(title) for title in titles]
    coming, is_first = iter(rows), True
    while part := list(islice(coming, _ROWS)):
        widths = [
            max(width, *(len(row[column]) for row in part)) for column, width in enumerate(widths)
        ]
        for row in [titles, *part] if is_first else part:
            if not say_line(_line(row, widths)):
                return True
        is_first = False
    return not is_first


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    """Pad all cells but the last one, which is cut where the line is full."""
    *cells, last = row
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
    return _GAP.join([*padded, last]).rstrip()[:_WIDTH].rstrip()
