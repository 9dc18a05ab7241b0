"""Read files that others may have made: bounded, and without waiting for a FIFO or a device."""

import errno
import io
import os
import stat
from pathlib import Path

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def open_regular(path: Path) -> io.FileIO:
    """
    Open a regular file for reading.

    :raises OSError: when it cannot be opened, or is something else.
    """
    fd = os.open(path, _FLAGS)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        raise OSError(errno.EINVAL, "It is not a regular file", os.fspath(path))
    return io.FileIO(fd)


def read(path: Path, most: int) -> bytes:
    """
    Read a whole regular file.

    :param most: the bytes that it may have.
    :raises OSError: when it cannot be read, is no regular file, or has more bytes.
    """
    # One byte more than is allowed: the size that a file tells may have changed meanwhile.
    with open_regular(path) as file, io.BufferedReader(file) as buffered:
        data = buffered.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"It has more than {most} bytes", os.fspath(path))
    return data


def is_open_to_others(path: Path) -> bool:
    """
    Whether users other than the owner and the group of a file may read or write it.

    The group is left out: systemd gives credentials to a service as files of mode 0440.

    :raises OSError: when there is no such file.
    """
    return bool(path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH))
