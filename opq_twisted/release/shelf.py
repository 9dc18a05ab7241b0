"""Puts an archive into the updates directory: hashed on the way, whole or not at all."""

import io
import os
import stat
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import sha256, sha512
from pathlib import Path
from typing import BinaryIO

from attrs import frozen

from opq_twisted import durable
from opq_twisted.errors import ArchiveRefused, InvalidName, ReleaseFailed
from opq_twisted.progress import Progress
from opq_twisted.release.bzip2 import is_whole
from opq_twisted.release.decompress import with_stdlib
from opq_twisted.release.name import UpdateName
from opq_twisted.release.tarstream import TarStream

_CHUNK = 1 << 20
#: Decompressed bytes in which the VERSION of an archive must come; the builder writes it first.
_START = 8 << 20
_LONGEST_VERSION = 64
_READABLE_BY_ALL = 0o644
_TO_READ = 0o444


@frozen
class Shelved:
    """An archive that was read to its end."""

    name: UpdateName
    #: Bytes.
    size: int
    #: In hexadecimal, by algorithm.
    hashes: dict[str, str]


def examine(archive: Path) -> UpdateName:
    """
    Make sure that a file looks like the update that its name promises.

    :raises ReleaseFailed: when it does not.
    """
    try:
        name = UpdateName.parse(archive.name)
        with _open(archive) as file:
            if not is_whole(file.fileno(), os.fstat(file.fileno()).st_size):
                raise ReleaseFailed(f"{archive} is not a whole bzip2 file: build it again.")
            found = _inner_version(file, name)
    except InvalidName as error:
        raise ReleaseFailed(str(error)) from None
    except OSError as error:
        raise ReleaseFailed(f"{archive} cannot be read: {error.strerror}.") from None
    except ArchiveRefused as error:
        raise ReleaseFailed(f"Boxes would refuse {archive}: {error}.") from None
    if found != str(name.version):
        raise ReleaseFailed(
            f"{archive} holds {f'VERSION {found!r}' if found else 'no VERSION'} near its beginning,"
            f" and not {name.version}: build it with build_update.py."
        )
    return name


def _open(archive: Path) -> io.FileIO:
    # Not waiting: a FIFO would never give anything.
    fd = os.open(archive, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ReleaseFailed(f"{archive} is not a regular file: name the archive itself.")
    return io.FileIO(fd)


def _inner_version(file: BinaryIO, name: UpdateName) -> str | None:
    """Read VERSION as a box will, in the single top folder or without it."""
    with with_stdlib(file) as source:
        stream = TarStream(source)
        for member in stream:
            path = member.name.removeprefix("./")
            if path in ("VERSION", f"{name.folder}/VERSION") and member.size <= _LONGEST_VERSION:
                return b"".join(stream.content()).decode("ascii", "replace").strip()
            if stream.offset + member.size > _START:
                break
    return None


@contextmanager
def shelve(archive: Path, updates: Path, progress: Progress) -> Iterator[Shelved]:
    """
    Read an archive, and copy it into the updates directory unless it lies there.

    It gets its name there when the context is left without an error, and never replaces another.
    Only one may do this at a time in a directory.

    :raises ReleaseFailed: when the name is taken by other bytes, or the file changes meanwhile.
    :raises OSError: when the disk is full or fails.
    """
    name = UpdateName.parse(archive.name)
    target = updates / str(name)
    with _open(archive) as source:
        if os.path.lexists(target):
            yield _compare(name, source, target, progress)
            return
        _sweep(updates)
        draft = target.with_name(f".{name}.part")
        try:
            # Within reach of the clean-up: a signal may come as soon as it is there.
            with durable.create(draft, 0o600) as copy:
                shelved = _read(name, source, copy, progress)
                copy.flush()
                os.fchmod(copy.fileno(), _READABLE_BY_ALL)
                durable.sync(copy.fileno())
            yield shelved
            try:
                durable.give_name(draft, target)
            except FileExistsError:
                raise _taken(target) from None
        finally:
            draft.unlink(missing_ok=True)
        durable.sync_folder(updates)


def _sweep(updates: Path) -> None:
    """Take away what interrupted copies have left, of whichever release."""
    for left in updates.glob(".opq-box-update-*.tar.bz2.part"):
        # What cannot go is told of where it is in the way.
        with suppress(OSError):
            left.unlink()


def _compare(name: UpdateName, source: io.FileIO, target: Path, progress: Progress) -> Shelved:
    """Read what is to be published, which has to be what lies there under its name."""
    if not Path(os.path.realpath(target)).is_relative_to(os.path.realpath(target.parent)):
        raise ReleaseFailed(
            f"{target} is a link that leads out of the updates directory, and servers do not "
            "follow it: take it away, and name the archive itself."
        )
    shelved = _read(name, source, None, progress)
    with _open(target) as there:
        if not os.path.samestat(os.fstat(source.fileno()), os.fstat(there.fileno())) and (
            _read(name, there, None, lambda _: None) != shelved
        ):
            raise _taken(target)
        mode = stat.S_IMODE(os.fstat(there.fileno()).st_mode)
        if mode | _TO_READ != mode:
            # The server is another user; if it is not ours to let it read, it may be able to.
            with suppress(PermissionError):
                os.fchmod(there.fileno(), mode | _TO_READ)
        # Whoever put it there may not have waited for the disk.
        durable.sync(there.fileno())
    durable.sync_folder(target.parent)
    return shelved


def _taken(target: Path) -> ReleaseFailed:
    return ReleaseFailed(
        f"{target} is there with other bytes, and a name is never used twice: build the release "
        "again, with a version of its own."
    )


def _read(
    name: UpdateName, source: io.FileIO, copy: BinaryIO | None, progress: Progress
) -> Shelved:
    """Hash with two algorithms at once, each in a thread of its own, and write meanwhile."""
    before = os.fstat(source.fileno())
    hashes, size = {"sha256": sha256(), "sha512": sha512()}, 0
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        pending: list[Future[None]] = []
        # No further than it was long at first: one that grows would never end.
        while chunk := source.read(min(_CHUNK, before.st_size - size)):
            _settle(pending)
            pending = [
                first.submit(hashes["sha256"].update, chunk),
                second.submit(hashes["sha512"].update, chunk),
            ]
            if copy is not None:
                copy.write(chunk)
            size += len(chunk)
            progress(len(chunk))
        _settle(pending)
    after = os.fstat(source.fileno())
    if (size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ReleaseFailed(f"{name} changed while it was read: try again when it is at rest.")
    return Shelved(name, size, {key: value.hexdigest() for key, value in hashes.items()})


def _settle(pending: list[Future[None]]) -> None:
    for each in pending:
        each.result()
