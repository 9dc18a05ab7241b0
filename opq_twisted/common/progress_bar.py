"""Shows on the terminal how much of a job is done."""

import sys
from collections.abc import Callable

from opq_twisted.common import terminal, wording

#: Is called with the number of bytes that have been processed since the last call.
Progress = Callable[[int], object]

#: Characters of the bar, if the terminal is wide enough.
_LENGTH = 25


class ProgressBar:
    """Shows the processed part of a number of bytes, if standard error is a terminal."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._percent = -1
        columns = terminal.columns(sys.stderr)
        self._is_seen = columns is not None
        size = f" 100 % of {wording.size(total)}"
        # The last column stays empty, so that the cursor stays on the line.
        self._length = min(_LENGTH, (columns or 0) - len("[]") - len(size) - 1)

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_error: object) -> None:
        if self._is_seen:
            self._show("\n")

    def __call__(self, count: int) -> None:
        """Count more processed bytes."""
        self._done += count
        percent = 100 * self._done // max(self._total, 1)
        if self._is_seen and percent != self._percent:
            self._percent = percent
            done = f"{percent:3} % of {wording.size(self._total)}"
            if self._length > 0:
                marks = "#" * (percent * self._length // 100)
                done = f"[{marks:{self._length}}] {done}"
            self._show(f"\r{done}")

    def _show(self, text: str) -> None:
        try:
            print(text, end="", file=sys.stderr, flush=True)
        except OSError:
            # The terminal is closed; the job continues.
            self._is_seen = False
