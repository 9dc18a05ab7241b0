"""Lets files fail: the disk is full at the n-th fsync, or worse; or none can be opened."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock


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


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """Let no file be opened, as while the process has too many of them."""
    error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    with mock.patch.object(Path, "open", side_effect=error):
        yield
