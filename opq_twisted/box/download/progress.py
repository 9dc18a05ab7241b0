"""Measures how fast a download goes."""

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from opq_twisted.box.state.status import Progress
from opq_twisted.common.errors import DownloadFailed

#: Bytes a second; a download that is slower, over so many seconds, is given up.
_SLOWEST, _WINDOW = 1000, 600.0

#: Seconds between two reports of progress.
_REPORT_EVERY = 0.25

#: Is told how far a download is.
ReportProgress = Callable[[Progress], object]


class ProgressMeter:
    """Measures a download, reports it now and then, and ends one that is too slow."""

    def __init__(self, clock: IReactorTime, report: ReportProgress) -> None:
        self._clock = clock
        self._report = report
        #: Bytes that have come so far, over all connections.
        self.taken = 0
        self._started = clock.seconds()
        self._reported = float("-inf")
        self._window = self._started
        self._before_window = 0

    def skip(self, seconds: float) -> None:
        """Do not count so many seconds, for which the server asked, as a time without bytes."""
        self._window += seconds

    def count(self, taken: int, received: int, total: int | None) -> None:
        """
        Count bytes.

        :param taken: those that have just come.
        :param received: those that are here, perhaps from earlier; `total` will be.
        :raises DownloadFailed: when they come too slowly.
        """
        self.taken += taken
        now = self._clock.seconds()
        if now - self._reported >= _REPORT_EVERY or received == total:
            self._reported = now
            rate = self.taken / max(now - self._started, 0.001)
            self._report(Progress(received, total, rate))
        if now - self._window >= _WINDOW and received != total:
            if self.taken - self._before_window < _SLOWEST * (now - self._window):
                raise DownloadFailed(
                    f"In {_WINDOW / 60:.0f} minutes less than {_SLOWEST} bytes a second came. "
                    "Try again later."
                )
            self._window, self._before_window = now, self.taken
