"""Finds the files and folders for an update."""

import json
import os
import re
import stat
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opq_twisted.archive.name import COMPONENT_SCRIPT
from opq_twisted.common import files
from opq_twisted.common.errors import BuildFailed

_LITTER = re.compile(r"__pycache__|.*\.pyc|\.git", re.DOTALL)
#: Bytes at the start of a script that are checked: a binary part may follow them.
_START = 4096
#: Bytes; TUF clients refuse a longer root.
_MAX_ROOT = 512_000
#: The start of a script after a byte order mark, which some editors write: no kernel runs it.
_MARKED_SCRIPT = b"\xef\xbb\xbf#!"
_ROLES = ("root", "targets", "snapshot", "timestamp")


@dataclass(frozen=True, slots=True)
class File:
    """A regular file as it was found; it must not change before it is packed."""

    source: Path
    size: int
    #: In nanoseconds since the epoch.
    modified: int
    is_executable: bool


#: The files by their path below the update's top-level folder; None is a folder.
Contents = dict[str, File | None]


def gather(folder: Path, at: str) -> Contents:
    """
    Find the content of a folder that becomes the folder `at` of an update.

    A link to a file in the same folder is replaced with the file's content. Python's caches and
    git's folder are left out. A file that begins with `#!` becomes executable.

    :raises BuildFailed: if there is no such folder, or it contains an entry that no update can
        hold, or a script that no box can run.
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
                is_script = inside == f"{at}/{COMPONENT_SCRIPT}"
                contents[inside] = _own_file(path, folder, is_script)
    return contents


def find_file(path: Path) -> File:
    """Find a single file for an update; raise `BuildFailed` if there is no such file."""
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
    Find a script for an update, in which it will be executable.

    :raises BuildFailed: if there is no such file, or no box can run it.
    """
    file = find_file(path)
    start = _start(path)
    if not start.startswith(b"#!"):
        raise BuildFailed(
            f"{path} is no script: its first line must begin with #!, with nothing before that, "
            "not even a byte order mark."
        )
    if b"\r\n" in start:
        raise _windows_line_ends(path)
    return replace(file, is_executable=True)


def find_trusted_root(path: Path, now: datetime) -> File:
    """
    Find the signed metadata of the root role (TUF specification, section 4.3) for an update.

    This catches mistakes, such as the file of another role. Only the boxes verify the signatures.

    :raises BuildFailed: if there is no such file, or no box can use it.
    """
    file = find_file(path)
    text = _start(path, _MAX_ROOT + 1)
    try:
        expires = _expiry_of_root(text)
    except (ValueError, RecursionError) as error:
        raise BuildFailed(
            f"{path} is no trusted root ({error}): give the newest root.json that the holders of "
            "the root keys signed."
        ) from error
    if expires <= now:
        raise BuildFailed(
            f"The trusted root {path} expired on {expires:%Y-%m-%d at %H:%M} UTC: have the holders "
            "of the root keys renew it, and give the new one."
        )
    return File(path, file.size, file.modified, is_executable=False)


def _expiry_of_root(text: bytes) -> datetime:
    """Read the expiry date of a root; a ValueError has the reason why it is invalid."""
    if len(text) > _MAX_ROOT:
        raise ValueError(f"it is larger than {_MAX_ROOT} bytes")
    try:
        metadata = json.loads(text.decode())
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from error
    signed = _holds(metadata, "signed", dict)
    if signed.get("_type") != "root":
        kind = json.dumps(signed.get("_type"))
        raise ValueError(f'its signed._type is {kind[:40]}, not "root"')
    if isinstance(signed.get("version"), bool) or _holds(signed, "version", int) < 1:
        raise ValueError("its version is not 1 or more")
    _holds(signed, "keys", dict)
    roles = _holds(signed, "roles", dict)
    if lacking := [role for role in _ROLES if role not in roles]:
        raise ValueError(f"its roles lack {', '.join(lacking)}")
    _holds(metadata, "signatures", list)
    expires = _holds(signed, "expires", str)
    try:
        return datetime.strptime(expires, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise ValueError("its signed.expires is not like 2030-12-31T00:00:00Z") from error


def _holds(value: object, key: str, kind: type) -> Any:
    """Return the value of a key, which must have this type and not be empty."""
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    inner = value.get(key)
    if not isinstance(inner, kind) or inner in ({}, [], ""):
        raise ValueError(f'it has no "{key}"')
    return inner


def unreadable(path: Path, error: OSError) -> BuildFailed:
    """Return the error for a file that cannot be read."""
    return BuildFailed(f"{path} cannot be read ({error.strerror}): fix that and build again.")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not _LITTER.fullmatch(entry.name)]
    except OSError as error:
        raise unreadable(folder, error) from error


def _own_file(path: Path, folder: Path, is_script: bool) -> File:
    if not files.is_inside(path, folder):
        raise BuildFailed(
            f"{path} is a link that leads out of {folder}: put the file itself there."
        )
    if is_script:
        return find_script(path)
    file, (first_line, newline, _) = find_file(path), _start(path).partition(b"\n")
    if first_line.startswith(_MARKED_SCRIPT):
        raise BuildFailed(
            f"{path} begins with a byte order mark, so that no box can run it: save it as UTF-8 "
            "without one."
        )
    can_run = first_line.startswith(b"#!")
    # A file that cannot run may be sourced by another script.
    if (can_run or path.suffix == ".sh") and newline and first_line.endswith(b"\r"):
        raise _windows_line_ends(path)
    # Checkouts on Windows, FAT and ZIP files lose the executable bit.
    return replace(file, is_executable=True) if can_run else file


def _start(path: Path, size: int = _START) -> bytes:
    try:
        with files.open_regular(path) as file:
            return file.read(size)
    except OSError as error:
        raise unreadable(path, error) from error


def _windows_line_ends(path: Path) -> BuildFailed:
    # The kernel would look for an interpreter with a carriage return at the end of its name.
    return BuildFailed(
        f"{path} has the line ends of Windows (CRLF), so that no box can run it: convert it, for "
        "example with dos2unix."
    )
