"""Tells a clock that can be believed from one that stands in the past: a Raspberry Pi has none."""

import ctypes
from collections.abc import Callable
from pathlib import Path

from twisted.logger import Logger

from opq_twisted.common import files, wording
from opq_twisted.common.errors import ClockBehind

#: Seconds between two times on record: often enough for what it guards, and kind to an SD card.
_RECORD_EVERY = 3600

#: Seconds since the epoch: the end of the year 9999.
_LATEST = 253_402_300_799

#: What adjtimex(2) returns while nobody keeps the clock right.
_TIME_ERROR = 5


class ClockFloor:
    """
    Remembers times that are known to have passed.

    To a clock that stands in 1970 nothing ever expires, so an attacker could hide new releases for
    ever. So no metadata is judged by a clock that is behind an installed release. A clock that
    nobody keeps right must not be behind the last recorded time either.

    A recorded time does not count against a clock that the kernel calls synchronised: the time may
    have been recorded while the clock was ahead, and would stop updates until it is reached. That
    opens no way to older metadata. The box never goes back behind the metadata that it has seen,
    and that had not expired when the time was recorded.
    """

    _log = Logger()

    def __init__(
        self, path: Path, now: Callable[[], float], is_synchronised: Callable[[], bool]
    ) -> None:
        """
        Remember in a file.

        :param now: the time of day, in seconds since the epoch.
        :param is_synchronised: whether the machine's clock is kept right by somebody.
        """
        self._path = path
        self._now = now
        self._is_synchronised = is_synchronised

    def require_passed(self, known: int) -> None:
        """
        Make sure that the clock is not behind.

        :param known: a time that has passed in any case, in seconds since the epoch.
        :raises ClockBehind: when it is.
        """
        # A version that is no date says nothing about the time.
        known = known if known <= _LATEST else 0
        now, recorded = self._now(), self._recorded()
        if now < recorded and self._is_synchronised():
            recorded = 0
        floor = max(known, recorded)
        if now < floor:
            raise ClockBehind(
                f"Waiting for the clock: it shows {wording.utc(now)}, and it is "
                f"{wording.utc(floor)} or later. It is set from the network; check "
                "that the box reaches a time server."
            )

    def record(self) -> None:
        """
        Record the time if the kernel calls the clock synchronised.

        Call this when signed metadata was found good at that time. An earlier time replaces a later
        one, which was recorded while the clock was ahead.
        """
        now, recorded = self._now(), self._recorded()
        if not self._is_synchronised() or recorded <= now < recorded + _RECORD_EVERY:
            return
        try:
            files.write(self._path, f"{now:.0f}\n".encode())
        except OSError as error:
            # The next check tries again; the releases that are installed give a floor as well.
            self._log.error("The time cannot be put on record: {error}", error=error)

    def _recorded(self) -> int:
        try:
            with self._path.open("rb") as file:
                recorded = int(file.read(32))
        except (OSError, ValueError):
            return 0
        return recorded if 0 <= recorded <= _LATEST else 0


def kernel_is_synchronised() -> bool:
    """Whether somebody keeps the machine's clock right, as the kernel has it (adjtimex(2))."""
    # Larger than struct timex on any machine; all zeros asks and changes nothing.
    request = ctypes.create_string_buffer(512)
    state: int = ctypes.CDLL(None, use_errno=True).adjtimex(request)
    return state not in (-1, _TIME_ERROR)
