"""Puts an archive into the updates directory: hashed on the way, whole or not at all."""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from attrs import frozen

from opq_twisted.archive.bzip2 import is_whole
from opq_twisted.archive.member_rules import MAX_ARCHIVE
from opq_twisted.archive.name import UpdateName
from opq_twisted.common import files
from opq_twisted.common.errors import InvalidName, ReleaseFailed
from opq_twisted.common.progress_bar import Progress

_READABLE_BY_ALL = 0o644
_TO_READ = 0o444


@frozen
class StagedArchive:
    """An archive that was read to its end."""

    name: UpdateName
    #: Bytes.
    size: int
    #: In hexadecimal, by algorithm.
    hashes: dict[str, str]


@frozen
class OpenArchive:
    """An archive that is to be published, open for reading."""

    name: UpdateName
    file: io.FileIO
    #: As it was when it was opened.
    status: os.stat_result


@contextmanager
def open_archive(archive: Path) -> Iterator[OpenArchive]:
    """
    Open a file that looks, at its name and its end, like an update.

    :raises ReleaseFailed: when it does not, or boxes would not fetch so much.
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


@contextmanager
def copy_archive(
    archive: OpenArchive, updates: Path, progress: Progress
) -> Iterator[StagedArchive]:
    """
    Read an archive, and copy it into the updates directory unless it lies there.

    It gets its name there when the context is left without an error, and never replaces another.
    Only one may do this at a time in a directory.

    :raises ReleaseFailed: when the name is taken by other bytes, or the file changes meanwhile.
    :raises OSError: when the disk is full or fails.
    """
    target = updates / str(archive.name)
    if os.path.lexists(target):
        yield _compare(archive, target, progress)
        return
    _sweep(updates)
    draft = target.with_name(f".{archive.name}.part")
    try:
        # Within reach of the clean-up: a signal may come as soon as it is there.
        with files.create(draft, 0o600) as copy:
            staged = _read(archive, copy, progress)
            copy.flush()
            os.fchmod(copy.fileno(), _READABLE_BY_ALL)
            files.sync(copy.fileno())
        yield staged
        try:
            files.link_no_replace(draft, target)
        except FileExistsError:
            raise _taken(target) from None
    finally:
        draft.unlink(missing_ok=True)
    files.sync_folder(updates)


def _sweep(updates: Path) -> None:
    """Take away what interrupted copies have left, of whichever release."""
    for left in updates.glob(".opq-box-update-*.tar.bz2.part"):
        # What cannot go is told of where it is in the way.
        with suppress(OSError):
            left.unlink()


def _compare(archive: OpenArchive, target: Path, progress: Progress) -> StagedArchive:
    """Read what is to be published, which has to be what lies there under its name."""
    if not Path(os.path.realpath(target)).is_relative_to(os.path.realpath(target.parent)):
        raise ReleaseFailed(
            f"{target} is a link that leads out of the updates directory, and servers do not "
            "follow it: take it away, and name the archive itself."
        )
    staged = _read(archive, None, progress)
    with files.open_regular(target) as there:
        status = os.fstat(there.fileno())
        if not os.path.samestat(archive.status, status) and (
            _read(OpenArchive(archive.name, there, status), None, lambda _: None) != staged
        ):
            raise _taken(target)
        mode = stat.S_IMODE(status.st_mode)
        if mode | _TO_READ != mode:
            # The server is another user; if it is not ours to let it read, it may be able to.
            with suppress(PermissionError):
                os.fchmod(there.fileno(), mode | _TO_READ)
        # Whoever put it there may not have waited for the disk.
        files.sync(there.fileno())
    files.sync_folder(target.parent)
    return staged


def _taken(target: Path) -> ReleaseFailed:
    return ReleaseFailed(
        f"{target} is there with other bytes, and a name is never used twice: build the release "
        "again, with a version of its own."
    )


def _read(archive: OpenArchive, copy: BinaryIO | None, progress: Progress) -> StagedArchive:
    """Hash an archive, and write it to `copy` meanwhile."""

    def handle(piece: bytes) -> None:
        if copy is not None:
            copy.write(piece)
        progress(len(piece))

    before = archive.status
    hashes = files.hash_file(
        archive.file.fileno(), ("sha256", "sha512"), before.st_size, each_piece=handle
    )
    after = os.fstat(archive.file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ReleaseFailed(
            f"{archive.name} changed while it was read: try again when it is at rest."
        )
    return StagedArchive(archive.name, before.st_size, hashes)
