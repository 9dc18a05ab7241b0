"""Detects a clock that is in the past: a Raspberry Pi has no battery-backed clock."""

import ctypes
from collections.abc import Callable
from pathlib import Path

from attrs import frozen
from twisted.logger import Logger

from opq_twisted.common import files, wording
from opq_twisted.common.errors import ClockBehind

#: Seconds between two recorded times, to spare the SD card.
_RECORD_EVERY = 3600

#: Seconds since the epoch: the end of the year 9999.
_MAX_TIME = 253_402_300_799

#: The result of adjtimex(2) while the clock is not synchronised.
_TIME_ERROR = 5


@frozen
class ClockFloor:
    """
    Remembers a time that has certainly passed.

    With a clock in 1970, no metadata ever expires, so an attacker could hide new releases for ever.
    Therefore the expiry of metadata is not checked while the clock is behind the version of an
    installed release, which is a time. A clock that is not synchronised must not be behind the last
    recorded time either.

    The recorded time does not count against a synchronised clock: it may have been recorded while
    the clock was ahead, and would stop updates until then. This gives an attacker no older
    metadata: the box never accepts metadata older than what it has seen, and that had not expired
    when the time was recorded.
    """

    _log = Logger()

    #: The file of the recorded time.
    _path: Path
    #: The time of day, in seconds since the epoch.
    _now: Callable[[], float]
    #: Whether the machine's clock is synchronised.
    _is_synchronised: Callable[[], bool]

    def require_passed(self, known: int) -> None:
        """
        Check that the clock is not behind.

        :param known: another time that has certainly passed, in seconds since the epoch.
        :raises ClockBehind: if the clock is behind.
        """
        # A version that is not a date proves no time.
        known = known if known <= _MAX_TIME else 0
        now, recorded = self._now(), self._recorded()
        if now < recorded and self._is_synchronised():
            recorded = 0
        floor = max(known, recorded)
        if now < floor:
            raise ClockBehind(
                f"Waiting for the clock: it shows {wording.moment(now)}, and it is "
                f"{wording.moment(floor)} or later. It is set from the network; check "
                "that the box reaches a time server."
            )

    def record(self) -> None:
        """
        Record the time if the clock is synchronised.

        Call this after signed metadata was verified at that time. An earlier time replaces a later
        one, which was recorded while the clock was ahead.
        """
        now, recorded = self._now(), self._recorded()
        if not self._is_synchronised() or recorded <= now < recorded + _RECORD_EVERY:
            return
        try:
            files.write(self._path, f"{now:.0f}\n".encode())
        except OSError as error:
            # The next check tries again, and until then the installed release gives a floor.
            self._log.error("The time cannot be recorded: {error}", error=error)

    def _recorded(self) -> int:
        try:
            with self._path.open("rb") as file:
                recorded = int(file.read(32))
        except (OSError, ValueError):
            return 0
        return recorded if 0 <= recorded <= _MAX_TIME else 0


def kernel_is_synchronised() -> bool:
    """Whether the kernel regards the clock as synchronised (adjtimex(2))."""
    # Larger than struct timex on any machine; zeros read the state without changing it.
    request = ctypes.create_string_buffer(512)
    state: int = ctypes.CDLL(None, use_errno=True).adjtimex(request)
    return state not in (-1, _TIME_ERROR)
