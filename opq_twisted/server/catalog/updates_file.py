"""A file in the updates directory: how it is opened, identified, and checked as an archive."""

import io
import os
from pathlib import Path

from attrs import frozen

from opq_twisted.archive.bzip2 import is_whole
from opq_twisted.archive.name import UpdateName
from opq_twisted.common import files
from opq_twisted.common.errors import MACHINE_BUSY, InvalidName

#: Identifies one state of a file: device, inode, size, mtime and ctime (nanoseconds).
Identity = tuple[int, int, int, int, int]

#: The end of the year 9999: `Last-Modified` has four digits for the year.
_MAX_TIME_NS = 253_402_300_800 * 10**9


class NotOffered(Exception):
    """A file in the updates directory is not offered as an update; the message says why."""


@frozen
class Archive:
    """A whole archive, in the state of its last check."""

    name: UpdateName
    path: Path
    size: int
    modified_ns: int
    identity: Identity


def inspect(directory: Path, name: str) -> Archive:
    """
    Check one name in the directory.

    :raises NotOffered: if it is not an update that can be served.
    :raises FileNotFoundError: if there is no such file, or if it is to be ignored.
    :raises OSError: if the machine cannot check it now.
    """
    if name.startswith(".") or name == "tuf":
        # Such names belong to uploads under way and to the signed metadata.
        raise FileNotFoundError(name)
    try:
        parsed = UpdateName.parse(name)
    except InvalidName:
        if not os.path.lexists(directory / name):
            raise FileNotFoundError(name) from None
        raise NotOffered("its name does not follow opq-box-update-VERSION.tar.bz2") from None
    try:
        path, file = open_inside(directory, name)
        with file:
            status = os.fstat(file.fileno())
            whole = is_whole(file.fileno(), status.st_size)
    except files.NotRegular:
        raise NotOffered("it is not a regular file") from None
    except OSError as error:
        # A busy machine must not withdraw an archive.
        if isinstance(error, FileNotFoundError) or error.errno in MACHINE_BUSY:
            raise
        raise NotOffered(f"it cannot be read: {error.strerror}") from None
    if not whole:
        raise NotOffered("it is not a whole bzip2 file: its upload goes on, or was cut off")
    if not 0 <= status.st_mtime_ns < _MAX_TIME_NS:
        raise NotOffered("its modification time has no HTTP date: touch it")
    return Archive(parsed, path, status.st_size, status.st_mtime_ns, identify(status))


def open_inside(directory: Path, name: str) -> tuple[Path, io.FileIO]:
    """
    Open a file for reading; follow a link only within the directory.

    :raises NotOffered: if it is a link that leads out of the directory, or nowhere.
    :raises NotRegular: if it is not a regular file.
    :raises OSError: if it cannot be opened.
    """
    path = directory / name
    if path.is_symlink():
        path = Path(os.path.realpath(path))
        if not files.is_inside(path, directory):
            raise NotOffered("it is a link that leads out of the directory")
        if not path.exists():
            raise NotOffered("it is a link that leads nowhere")
    return path, files.open_regular(path, follow_links=False)


def identify(status: os.stat_result) -> Identity:
    """Identify this state of a file."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
