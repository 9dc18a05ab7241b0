"""Copies an archive into the updates directory, completely or not at all, and hashes it."""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from attrs import frozen
from tuf.api.metadata import TargetFile

from opq_twisted.archive.bzip2 import is_whole
from opq_twisted.archive.name import UpdateName
from opq_twisted.archive.sizes import MAX_ARCHIVE
from opq_twisted.common import files
from opq_twisted.common.errors import InvalidName, ReleaseFailed
from opq_twisted.common.progress_bar import Progress

_TO_READ = 0o444


@frozen
class OpenArchive:
    """An archive that is to be published, opened for reading."""

    name: UpdateName
    file: io.FileIO
    #: At the time of opening.
    status: os.stat_result


@contextmanager
def open_archive(archive: Path) -> Iterator[OpenArchive]:
    """
    Open a file whose name and end are those of an update.

    :raises ReleaseFailed: if they are not, or the file is larger than boxes fetch.
    """
    try:
        name = UpdateName.parse(archive.name)
        file = files.open_regular(archive)
    except InvalidName as error:
        raise ReleaseFailed(str(error)) from None
    except OSError as error:
        raise ReleaseFailed(f"{archive} cannot be read: {error.strerror}.") from None
    with file:
        status = os.fstat(file.fileno())
        if status.st_size > MAX_ARCHIVE:
            raise ReleaseFailed(
                f"{archive} has {status.st_size} bytes, and boxes fetch no more than {MAX_ARCHIVE}."
            )
        if not is_whole(file.fileno(), status.st_size):
            raise ReleaseFailed(f"{archive} is not a whole bzip2 file: build it again.")
        yield OpenArchive(name, file, status)


def check_archive(archive: OpenArchive, updates: Path, progress: Progress) -> TargetFile:
    """
    Return the TUF target of an archive that could be copied into the updates directory.

    :raises ReleaseFailed: as `copy_archive`.
    """
    target = updates / str(archive.name)
    if os.path.lexists(target):
        return _compare(archive, target, progress)
    return _read(archive, None, progress)


@contextmanager
def copy_archive(archive: OpenArchive, updates: Path, progress: Progress) -> Iterator[TargetFile]:
    """
    Copy an archive into the updates directory unless it is there, and yield its TUF target.

    The copy gets its name when the context ends without an error, and never replaces another file.
    Hold the lock of the repository meanwhile.

    :raises ReleaseFailed: if a file with other bytes has the name, or the archive is changed while
        it is read.
    :raises OSError: if the disk is full or fails.
    """
    target = updates / str(archive.name)
    if os.path.lexists(target):
        target_file = _compare(archive, target, progress)
        _make_usable(target)
        yield target_file
        return
    _remove_left_over(updates)
    draft = target.with_name(f".{archive.name}.part")
    try:
        # Inside the `try`: a signal may arrive as soon as the file is there.
        with files.create(draft, 0o600) as copy:
            target_file = _read(archive, copy, progress)
            copy.flush()
            os.fchmod(copy.fileno(), files.READABLE_BY_ALL)
            files.sync(copy.fileno())
        yield target_file
        try:
            files.link_no_replace(draft, target)
        except FileExistsError:
            raise _taken(target) from None
    finally:
        draft.unlink(missing_ok=True)
    files.sync_folder(updates)


def _remove_left_over(updates: Path) -> None:
    """Remove the files of interrupted copies, of any release."""
    for left in updates.glob(".opq-box-update-*.tar.bz2.part"):
        # If the file of this release cannot be removed, creating it fails with the reason.
        with suppress(OSError):
            left.unlink()


def _compare(archive: OpenArchive, target: Path, progress: Progress) -> TargetFile:
    """Read an archive, and make sure that the file of its name in the directory is the same."""
    if not files.is_inside(target, target.parent):
        raise ReleaseFailed(
            f"{target} is a link that leads out of the updates directory, and servers do not "
            "follow it: take it away, and name the archive itself."
        )
    target_file = _read(archive, None, progress)
    with files.open_regular(target) as there:
        status = os.fstat(there.fileno())
        if not os.path.samestat(archive.status, status) and (
            _read(OpenArchive(archive.name, there, status), None, lambda _: None) != target_file
        ):
            raise _taken(target)
    return target_file


def _make_usable(target: Path) -> None:
    """Let the server read a file that somebody else copied, and wait until it is on the disk."""
    with files.open_regular(target) as there:
        mode = stat.S_IMODE(os.fstat(there.fileno()).st_mode)
        if mode | _TO_READ != mode:
            # The server is another user. If the file is not ours, the server may still be allowed.
            with suppress(PermissionError):
                os.fchmod(there.fileno(), mode | _TO_READ)
        # The program that copied it may not have waited for the disk.
        files.sync(there.fileno())
    files.sync_folder(target.parent)


def _taken(target: Path) -> ReleaseFailed:
    return ReleaseFailed(
        f"{target} is there with other bytes, and a name is never used twice: build the release "
        "again, with a version of its own."
    )


def _read(archive: OpenArchive, copy: BinaryIO | None, progress: Progress) -> TargetFile:
    """Hash an archive, and write it to `copy` at the same time."""

    def handle(chunk: bytes) -> None:
        if copy is not None:
            copy.write(chunk)
        progress(len(chunk))

    before = archive.status
    hashes = files.hash_file(
        archive.file.fileno(), ("sha256", "sha512"), before.st_size, each_chunk=handle
    )
    after = os.fstat(archive.file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ReleaseFailed(
            f"{archive.name} changed while it was read: try again when no program writes to it."
        )
    return TargetFile(before.st_size, hashes, str(archive.name))
