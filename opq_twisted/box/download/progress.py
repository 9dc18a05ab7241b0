"""Reports the progress of a download, and ends one that is too slow."""

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from opq_twisted.box.state.status import Progress
from opq_twisted.common.errors import DownloadFailed

#: A download that is slower than this, in bytes per second, for this many seconds fails.
_MIN_RATE, _WINDOW = 1000, 600.0

#: Seconds between two reports of progress.
_REPORT_EVERY = 0.25

#: Is called with the progress of a download.
ReportProgress = Callable[[Progress], object]


class ProgressMeter:
    """Measures a download over all of its connections."""

    def __init__(self, clock: IReactorTime, report: ReportProgress) -> None:
        self._clock = clock
        self._report = report
        self._received = 0
        self._started = clock.seconds()
        self._reported_at = float("-inf")
        self._window_start = self._started
        self._received_before_window = 0

    def ignore(self, seconds: float) -> None:
        """Leave a pause that the server asked for out of the rate."""
        self._window_start += seconds

    def count(self, received: int, size: int, total: int | None) -> None:
        """
        Count bytes.

        :param received: the number of bytes that have just arrived.
        :param size: the size of the part file, including bytes of earlier downloads.
        :param total: the size of the complete file; None if unknown.
        :raises DownloadFailed: if the download is too slow.
        """
        self._received += received
        now = self._clock.seconds()
        if now - self._reported_at >= _REPORT_EVERY or size == total:
            self._reported_at = now
            rate = self._received / max(now - self._started, 0.001)
            self._report(Progress(size, total, rate))
        if now - self._window_start >= _WINDOW and size != total:
            in_window = self._received - self._received_before_window
            if in_window < _MIN_RATE * (now - self._window_start):
                raise DownloadFailed(
                    f"For {_WINDOW / 60:.0f} minutes, less than {_MIN_RATE} bytes a second "
                    "arrived. Try again later."
                )
            self._window_start, self._received_before_window = now, self._received
