"""Reports the progress of a download, and ends one that is too slow."""

from collections.abc import Callable

from attrs import evolve
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

    def exclude_pause(self, seconds: float) -> None:
        """Do not call the download too slow for a pause that the server asked for."""
        self._window_start += seconds

    def exclude_copying(self, seconds: float) -> None:
        """Leave the time in which pieces were copied, and nothing requested, out of the rate."""
        self._started += seconds
        self._window_start += seconds

    def count(self, received: int, progress: Progress, *, is_complete: bool) -> None:
        """
        Count bytes.

        :param received: the number of bytes that have just arrived.
        :param progress: of the whole download, including earlier attempts, without a rate.
        :raises DownloadFailed: if the download is too slow.
        """
        self._received += received
        now = self._clock.seconds()
        if now - self._reported_at >= _REPORT_EVERY or is_complete:
            self._reported_at = now
            rate = self._received / max(now - self._started, 0.001)
            self._report(evolve(progress, rate=rate))
        if now - self._window_start >= _WINDOW and not is_complete:
            in_window = self._received - self._received_before_window
            if in_window < _MIN_RATE * (now - self._window_start):
                raise DownloadFailed(
                    f"For {_WINDOW / 60:.0f} minutes, less than {_MIN_RATE} bytes a second "
                    "arrived. Try again later."
                )
            self._window_start, self._received_before_window = now, self._received
