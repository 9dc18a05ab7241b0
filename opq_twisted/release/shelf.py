"""Puts an archive into the updates directory: hashed on the way, whole or not at all."""

import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256, sha512
from pathlib import Path
from typing import Any, BinaryIO

from attrs import frozen

from opq_twisted.durable import sync_folder
from opq_twisted.errors import ArchiveRefused, InvalidName, ReleaseFailed
from opq_twisted.release.bzip2 import is_whole
from opq_twisted.release.decompress import with_stdlib
from opq_twisted.release.name import UpdateName, parse_version
from opq_twisted.release.tarstream import TarStream

_CHUNK = 1 << 20
#: Decompressed bytes in which the VERSION of an archive must come; the builder writes it first.
_START = 8 << 20

Progress = Callable[[int], object]


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
        with archive.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or not is_whole(file.fileno(), status.st_size):
                raise ReleaseFailed(f"{archive} is not a whole bzip2 file: build it again.")
            found = _inner_version(file)
    except InvalidName as error:
        raise ReleaseFailed(str(error)) from None
    except OSError as error:
        raise ReleaseFailed(f"{archive} cannot be read: {error.strerror}.") from None
    except ArchiveRefused as error:
        raise ReleaseFailed(f"Boxes would refuse {archive}: {error}.") from None
    if found != name.version:
        raise ReleaseFailed(
            f"{archive} holds {found or 'no'} VERSION near its beginning, and not {name.version}: "
            "build it with build_update.py."
        )
    return name


def _inner_version(file: BinaryIO) -> int | None:
    with with_stdlib(file) as source:
        stream = TarStream(source)
        for member in stream:
            if member.name.removeprefix("./").split("/")[-1] == "VERSION" and member.size <= 64:
                return parse_version(b"".join(stream.content()).decode("ascii", "replace"))
            if stream.offset + member.size > _START:
                break
    return None


@contextmanager
def shelve(archive: Path, updates: Path, progress: Progress) -> Iterator[Shelved]:
    """
    Read an archive, and copy it into the updates directory unless it lies there.

    It gets its name there when the context is left without an error, and never replaces another.

    :raises ReleaseFailed: when the name is taken by other bytes, or the file changes meanwhile.
    :raises OSError: when the disk is full or fails.
    """
    name = examine(archive)
    target = updates / str(name)
    with archive.open("rb", buffering=0) as source:
        if target.exists():
            shelved = _read(name, source, None, progress)
            if not os.path.samefile(archive, target):
                with target.open("rb", buffering=0) as other:
                    if _read(name, other, None, lambda _: None) != shelved:
                        raise ReleaseFailed(
                            f"{target} is there with other bytes, and a name is never used twice: "
                            "build the release again, with a version of its own."
                        )
            yield shelved
            return
        draft = target.with_name(f".{name}.part")
        try:
            with draft.open("wb", buffering=0) as copy:
                shelved = _read(name, source, copy, progress)
                os.fchmod(copy.fileno(), 0o644)
                os.fsync(copy.fileno())
            yield shelved
            draft.rename(target)
            sync_folder(updates)
        finally:
            draft.unlink(missing_ok=True)


def _read(name: UpdateName, source: Any, copy: Any, progress: Progress) -> Shelved:
    """Hash with two algorithms at once, each in a thread of its own, and write meanwhile."""
    before = os.fstat(source.fileno())
    hashes, size = {"sha256": sha256(), "sha512": sha512()}, 0
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        pending: list[Future[None]] = []
        while chunk := source.read(_CHUNK):
            _settle(pending)
            pending = [
                first.submit(hashes["sha256"].update, chunk),
                second.submit(hashes["sha512"].update, chunk),
            ]
            if copy is not None:
                _write(copy, chunk)
            size += len(chunk)
            progress(len(chunk))
        _settle(pending)
    after = os.fstat(source.fileno())
    if size != after.st_size or before.st_mtime_ns != after.st_mtime_ns:
        raise ReleaseFailed(f"{name} changed while it was read: try again when it is at rest.")
    return Shelved(name, size, {key: value.hexdigest() for key, value in hashes.items()})


def _settle(pending: list[Future[None]]) -> None:
    for each in pending:
        each.result()


def _write(copy: Any, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[copy.write(rest) :]
