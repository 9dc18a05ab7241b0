"""Lets the disk fail at a chosen moment: it is full at the n-th fsync, or worse."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator


def disk_full() -> None:
    """Fail as the kernel does when there is no room."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def counting(number: int, strike: Callable[[], object] = disk_full) -> Iterator[None]:
    """Strike at the n-th fsync, before it is done."""
    real, count = os.fsync, 0

    def fsync(fd: int) -> None:
        nonlocal count
        count += 1
        if count == number:
            strike()
        real(fd)

    os.fsync = fsync  # type: ignore[assignment]
    try:
        yield
    finally:
        os.fsync = real
