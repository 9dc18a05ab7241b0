"""Writes the log to standard output without blocking, and counts repeated lines."""

import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, TextIO, cast

from twisted.internet.interfaces import IReactorTime
from twisted.logger import (
    FileLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    eventAsText,
    formatEvent,
)
from twisted.python import usage
from zope.interface import implementer

from opq_twisted.common.output import standard_output

#: The number of lines of one kind that are written in a minute; further lines are counted.
MAX_PER_MINUTE = 60

_PERIOD = 60.0

#: Lines of Twisted about its own parts, as they are before they are formatted. Our services log
#: where they listen.
_NOISE = re.compile(
    r"twistd \{version\}|reactor class:|\S+ starting on |\(.*Port .* Closed\)|Main loop terminated"
)


@implementer(ILogObserver)
class RepeatCounter:
    """
    Passes on log events, but at most `MAX_PER_MINUTE` of one kind in a minute.

    Events of one kind come from the same line of the program. Without the limit, a journal on an SD
    card would wear the card out, and a journal in memory would lose important lines.
    """

    def __init__(
        self, observer: Callable[[LogEvent], object], seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._observer = observer
        self._seconds = seconds
        self._began = seconds()
        self._seen: Counter[tuple[object, ...]] = Counter()
        self._latest: dict[tuple[object, ...], LogEvent] = {}
        # Other threads log too.
        self._lock = threading.RLock()

    def __call__(self, event: LogEvent) -> None:
        """Pass on an event, or count it."""
        with self._lock:
            if self._seconds() - self._began >= _PERIOD:
                self._begin_period()
            kind = (event.get("log_namespace"), event.get("log_level"), event.get("log_format"))
            self._seen[kind] += 1
            if self._seen[kind] <= MAX_PER_MINUTE:
                self._observer(event)
            else:
                self._latest[kind] = event

    def _begin_period(self) -> None:
        """Log the counts, and begin a new minute."""
        seen, latest = self._seen, self._latest
        self._began, self._seen, self._latest = self._seconds(), Counter(), {}
        for kind, event in latest.items():
            self._observer(
                {
                    "log_time": event.get("log_time"),
                    "log_namespace": event.get("log_namespace", "-"),
                    "log_level": event.get("log_level", LogLevel.info),
                    "log_format": "{text} ({more:,} more of these in a minute.)",
                    "text": formatEvent(event),
                    "more": seen[kind] - MAX_PER_MINUTE,
                }
            )


class RepeatedLine:
    """
    Writes a warning at once, and then once a minute the number of further ones.

    An attacker or a busy machine can cause thousands of equal warnings in a second, and a box keeps
    its log on an SD card.
    """

    def __init__(self, clock: IReactorTime, write: Callable[[str], object]) -> None:
        """Write lines to the log with `write`."""
        self._clock = clock
        self._write = write
        self._counting = False
        self._more = 0

    def say(self, line: str) -> None:
        """Write a line, or only count it if another was written within the last minute."""
        if self._counting:
            self._more += 1
            self._latest = line
            return
        self._write(line)
        self._counting = True
        self._clock.callLater(_PERIOD, self._end_period)

    def _end_period(self) -> None:
        more, self._more = self._more, 0
        if not more:
            self._counting = False
            return
        self._write(f"{self._latest} ({more:,} more of these in the last minute.)")
        self._clock.callLater(_PERIOD, self._end_period)


def log_to_standard_output(twistd: usage.Options | None) -> None:
    """
    Make twistd log through `Output` and `RepeatCounter`, if it logs to standard output.

    :param twistd: the options of `twistd` itself. If they ask for a log file, syslog, or another
        `--logger`, nothing is changed.
    """
    if (
        twistd is not None
        and twistd.get("nodaemon")
        and twistd.get("logfile") in (None, "", "-")
        and not twistd.get("syslog")
        and not twistd.get("logger")
    ):
        twistd["logger"] = f"{make_observer.__module__}.{make_observer.__name__}"


def make_observer() -> RepeatCounter:
    """Return the observer that writes the log to standard output; twistd calls it by its name."""
    formatter = partial(_format, with_time=not _is_journal(sys.stdout))
    return RepeatCounter(FileLogObserver(cast(Any, standard_output()), formatter))


def _format(event: LogEvent, with_time: bool) -> str | None:
    """Format an event as a line, or as the lines of a traceback; None if it is left out."""
    if _NOISE.match(event.get("log_text") or event.get("log_format") or ""):
        return None
    text = eventAsText(event, includeTimestamp=with_time)
    return text.replace("\n", "\n\t") + "\n" if text else None


def _is_journal(stream: TextIO | None) -> bool:
    """Whether systemd's journal reads a stream: it adds the time to each line."""
    if stream is None:
        return False
    # systemd.exec(5)
    status = os.fstat(stream.fileno())
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
