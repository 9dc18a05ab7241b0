"""What the server has been told of the installations."""

from collections import Counter
from itertools import takewhile
from math import inf

from benchmarks.simulation.boxes import Box
from benchmarks.simulation.installs import Install
from opq_twisted.fleet.engine.control_group import ControlGroup
from opq_twisted.fleet.engine.evidence import Evidence
from opq_twisted.fleet.engine.sequential_test import SequentialTest
from opq_twisted.fleet.queries.outcomes import is_bad
from opq_twisted.report.codes import Outcome


class Ledger:
    """Counts each box once; the counts are kept, because the engine asks after each report."""

    def __init__(self) -> None:
        self.well = 0
        self.bad: Counter[str] = Counter()
        #: Boxes under way, by the time of their last report, the oldest first.
        self.open: dict[Box, float] = {}
        #: When the last one began of the boxes that have failed for any reason.
        self._last_failed = -inf
        #: The last ends of attempts.
        self.ends: dict[Box, Install] = {}
        #: When the server first heard of these attempts.
        self.received: dict[Box, float] = {}
        #: Of the boxes under way: those that count as bad, and of which nobody can say anything.
        self.silent: set[Box] = set()
        self.unclear: set[Box] = set()
        #: When the first box was last heard that is not silent.
        self.oldest_clear: float | None = None

    def begin(self, box: Box, now: float) -> None:
        """Note that a box is about to install."""
        self.open[box] = now

    def end(self, box: Box, install: Install, now: float) -> bool:
        """Note the end of an attempt; returns whether it counts against the release."""
        began = self.open.pop(box, now)
        self.silent.discard(box)
        self.unclear.discard(box)
        self.ends[box], self.received[box] = install, began
        if install.outcome is Outcome.UPDATED:
            self.well += 1
            return False
        self._last_failed = max(self._last_failed, began)
        if is_bad(install.outcome or "", install.reason or ""):
            self.bad[install.reason or ""] += 1
            return True
        return False

    def add_bad(self, reason: str) -> None:
        """Note the failure of a box that is none."""
        self.bad[reason] += 1

    def judge_silence(self, before: float, controls: ControlGroup | None) -> None:
        """
        Judge the boxes under way that have not been heard since a time.

        :param controls: None if nobody can say anything about the silence now.
        """
        self.silent.clear()
        self.unclear.clear()
        self.oldest_clear = None
        for box, last_seen in self.open.items():
            if last_seen >= before:
                self.oldest_clear = last_seen
                break
            group = None if controls is None else controls.since(last_seen)
            is_clear = group is not None and group.can_tell and not group.explain_silence
            (self.silent if is_clear else self.unclear).add(box)

    def evidence(self, test: SequentialTest, drawn: int, ended: int) -> Evidence:
        """Return the numbers."""
        bad = dict(self.bad)
        if self.silent:
            bad["silent"] = len(self.silent)
        return Evidence(
            well=self.well,
            bad_by_reason=bad,
            under_way=len(self.open) - len(self.silent),
            unclear=len(self.unclear),
            too_early=self._too_early() if bad else 0,
            drawn=drawn,
            ended=ended,
            test=test,
        )

    def _too_early(self) -> int:
        silent = (self.open[box] for box in self.silent)
        last_bad = max(self._last_failed, max(silent, default=-inf))
        later = takewhile(lambda box: self.open[box] > last_bad, reversed(self.open))
        return sum(box not in self.ends for box in later)
