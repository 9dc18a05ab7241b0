"""Write small files so that a power cut leaves the old one or the new one, whole."""

import errno
import os
from pathlib import Path
from typing import BinaryIO

_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


def write(path: Path, data: bytes, mode: int | None = None) -> None:
    """
    Replace a file's content, and return when it is on the disk.

    :param mode: who may read it, from the moment that it is there; otherwise as the umask has it.
    :raises OSError: when the disk is full or fails; the old file is untouched then.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        with create(temporary, 0o666 if mode is None else mode) as file:
            if mode is not None:
                # The umask may have taken rights away.
                os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        rename(temporary, path)
    except BaseException:
        # Be it a signal that ends the program.
        temporary.unlink(missing_ok=True)
        raise


def create(path: Path, mode: int = 0o666) -> BinaryIO:
    """
    Make a new file of our own in the place of whatever has its name, and open it for writing.

    In a folder that others can write to, a link or a FIFO may wait there: neither is opened.

    :param mode: who may open it, as far as the umask lets them.
    :raises OSError: when it cannot be made.
    """
    path.unlink(missing_ok=True)
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb")


def rename(source: Path, target: Path) -> None:
    """
    Rename within a folder, and return when that is on the disk.

    :raises OSError: when it cannot be done.
    """
    source.replace(target)
    sync_folder(target.parent)


def give_name(draft: Path, target: Path) -> None:
    """
    Give a finished file its name in the same folder, and never replace what has it.

    Whoever calls this removes the draft, and syncs the folder.

    :raises FileExistsError: when the name is taken.
    :raises OSError: when it cannot be done.
    """
    try:
        # Unlike a rename this never replaces what somebody else wrote in the meantime.
        target.hardlink_to(draft)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        draft.rename(target)


def sync_folder(folder: Path) -> None:
    """
    Return when the names in a folder are on the disk.

    :raises OSError: when the disk fails.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
