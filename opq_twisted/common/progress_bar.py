"""A line on the terminal that says how far something is."""

import sys
from collections.abc import Callable

from opq_twisted.common import wording

#: Told how many more bytes have been read.
Progress = Callable[[int], object]


class ProgressBar:
    """Shows how much of a number of bytes is done; nothing where stderr is no terminal."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._percent = -1
        self._is_seen = sys.stderr is not None and sys.stderr.isatty()

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_error: object) -> None:
        if self._is_seen:
            self._show("\n")

    def __call__(self, count: int) -> None:
        """Count more bytes that are done."""
        self._done += count
        percent = 100 * self._done // max(self._total, 1)
        if self._is_seen and percent != self._percent:
            self._percent = percent
            line = f"[{'#' * (percent // 4):25}] {percent:3} % of {wording.size(self._total)}"
            self._show(f"\r{line}")

    def _show(self, text: str) -> None:
        try:
            print(text, end="", file=sys.stderr, flush=True)
        except OSError:
            # The terminal is gone, and the work goes on without it.
            self._is_seen = False
