"""Lets files fail: the disk is full at the n-th fsync, or worse; or none can be opened."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
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
def unopenable(number: int = errno.EMFILE, suffix: str = "") -> Iterator[None]:
    """Let no file be opened whose name ends so, as while the process has too many of them."""
    real = Path.open

    def fail(path: Path, *arguments: Any, **more: Any) -> Any:
        if path.name.endswith(suffix):
            raise OSError(number, os.strerror(number))
        return real(path, *arguments, **more)

    with mock.patch.object(Path, "open", fail):
        yield
