"""Find the files and folders that an update is to hold."""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from opq_twisted.errors import BuildFailed

_LITTER = re.compile(r"__pycache__|.*\.pyc|\.git", re.DOTALL)


@dataclass(frozen=True, slots=True)
class File:
    """A regular file as it was found: it must still be so when it is packed."""

    source: Path
    size: int
    #: In nanoseconds since the epoch.
    modified: int
    is_executable: bool


#: Where each file lies below the update's top-level folder; None is a folder.
Contents = dict[str, File | None]


def gather(folder: Path, at: str) -> Contents:
    """
    Find what is in a folder, which an update is to hold as `at`.

    A link to a file of the same folder counts as a file: the update holds its content. Python's
    caches and git's folder are left out.

    :raises BuildFailed: when there is no such folder, or it holds what an update cannot.
    """
    if not os.path.isdir(folder):
        raise BuildFailed(f"There is no folder {folder}: check the path.")
    contents: Contents = {}
    pending = [(folder, at)]
    while pending:
        here, name = pending.pop()
        contents[name] = None
        for entry in _entries(here):
            path, inside = here / entry.name, f"{name}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                pending.append((path, inside))
            else:
                contents[inside] = _own_file(path, folder)
    return contents


def find_file(path: Path) -> File:
    """
    Find a single file for an update.

    :raises BuildFailed: when there is none.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise BuildFailed(f"{path} is not a regular file: an update holds only files and folders.")
    is_executable = bool(status.st_mode & stat.S_IXUSR)
    return File(path, status.st_size, status.st_mtime_ns, is_executable)


def find_script(path: Path) -> File:
    """
    Find a script for an update; it will be executable there.

    :raises BuildFailed: when there is none, or its first line does not say what runs it.
    """
    file = find_file(path)
    try:
        with path.open("rb") as script:
            start = script.read(2)
    except OSError as error:
        raise unreadable(path, error) from error
    if start != b"#!":
        raise BuildFailed(f"{path} is no script: its first line must begin with #!.")
    return File(path, file.size, file.modified, is_executable=True)


def unreadable(path: Path, error: OSError) -> BuildFailed:
    """Word the failure of reading a file."""
    return BuildFailed(f"{path} cannot be read ({error.strerror}): mend that and build again.")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not _LITTER.fullmatch(entry.name)]
    except OSError as error:
        raise unreadable(folder, error) from error


def _own_file(path: Path, folder: Path) -> File:
    # Not Path.resolve(), which raises RuntimeError for a link to itself.
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise BuildFailed(
            f"{path} is a link that leads out of {folder}: put the file itself there."
        )
    return find_file(path)
