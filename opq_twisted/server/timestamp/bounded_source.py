"""Asks for the pace in a way that cannot keep the timestamp from being signed."""

from collections.abc import Mapping, Sequence
from threading import Thread

from twisted.logger import Logger

from opq_twisted.trust.pace import ChannelRelease, Pace, PaceSource, PaceUnknown

#: Seconds; longer than a database waits for its locks.
_TIMEOUT = 20.0


class BoundedSource:
    """
    A `PaceSource` around another one, which may hang or fail in any way.

    While one question has no answer, no other is asked.
    """

    _log = Logger()

    def __init__(self, source: PaceSource, timeout: float = _TIMEOUT) -> None:
        """:param timeout: seconds to wait for an answer."""
        self._source = source
        self._timeout = timeout
        self._question: _Question | None = None

    @property
    def asks(self) -> bool:
        """Whether a release that is new waits for an operator while its pace is unknown."""
        return self._source.asks

    def __call__(self, releases: Sequence[ChannelRelease], /) -> Mapping[str, Pace]:
        """
        Return the pace of each channel that has one; it blocks.

        :raises PaceUnknown: if the source does not know it, fails, or gives no answer in time.
        """
        if self._question is not None and self._question.is_alive():
            raise PaceUnknown("The database has not answered an earlier question yet.")
        question = self._question = _Question(self._source, releases)
        try:
            question.start()
            question.join(self._timeout)
            if question.is_alive():
                raise PaceUnknown(f"The database has not answered within {self._timeout:g} s.")
            return question.result()
        except PaceUnknown:
            raise
        except Exception as error:
            self._log.failure("asking for the pace failed")
            raise PaceUnknown(f"Asking for it failed: {type(error).__name__}.") from error


class _Question(Thread):
    def __init__(self, source: PaceSource, releases: Sequence[ChannelRelease]) -> None:
        # The end of the process does not wait for it.
        super().__init__(name="pace", daemon=True)
        self._source = source
        self._releases = releases
        self._paces: Mapping[str, Pace] = {}
        self._error: Exception | None = RuntimeError("the thread has not run")

    def run(self) -> None:
        try:
            self._paces = dict(self._source(self._releases))
        except Exception as error:
            self._error = error
        else:
            self._error = None

    def result(self) -> Mapping[str, Pace]:
        if self._error is not None:
            raise self._error
        return self._paces
