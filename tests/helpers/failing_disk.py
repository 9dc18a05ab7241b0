"""Makes files fail: the disk is full at the n-th fsync, or no file can be opened."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock


def disk_full() -> None:
    """Raise the error of a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def counting(number: int, strike: Callable[[], object] = disk_full) -> Iterator[None]:
    """Call a function instead of the n-th fsync."""
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
def unopenable(number: int = errno.EMFILE, suffix: str = "") -> Iterator[None]:
    """Make each open of a file with this suffix fail, as with too many open files."""
    real = Path.open

    def fail(path: Path, *arguments: Any, **more: Any) -> Any:
        if path.name.endswith(suffix):
            raise OSError(number, os.strerror(number))
        return real(path, *arguments, **more)

    with mock.patch.object(Path, "open", fail):
        yield
