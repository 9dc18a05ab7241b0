"""Packs an update reproducibly: the same files and version give the same bytes."""

import os
import secrets
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from opq_twisted.archive.build.components import AGENT, TRUSTED_ROOT, WHEELS
from opq_twisted.archive.build.compress import Compress, fastest
from opq_twisted.archive.build.contents import Contents, File, unreadable
from opq_twisted.archive.member_rules import LIMIT, MemberRules
from opq_twisted.archive.name import INSTALL_SCRIPT, VERIFY_SCRIPT, UpdateName
from opq_twisted.archive.tar_reader import Member, quoted
from opq_twisted.common import files, wording
from opq_twisted.common.errors import ArchiveRefused, BuildFailed
from opq_twisted.common.progress_bar import Progress

#: VERSION is first, so that a box notices a wrong archive early. These components have always had
#: this order; others follow them by name, and the wheels are last.
_FIRST = (
    *("VERSION", INSTALL_SCRIPT, VERIFY_SCRIPT, TRUSTED_ROOT),
    *(AGENT, "triggering", "kernel", "firmware"),
)
_PLACES = {name: place for place, name in enumerate(_FIRST)} | {WHEELS: len(_FIRST) + 1}
_PIECE = 256 << 10

_Content = File | bytes | None
_Member = tuple[str, _Content]


def destination(name: UpdateName, folder: Path) -> Path:
    """
    Return the path of a new update.

    :raises BuildFailed: if that name is taken, or nothing can be written to the folder.
    """
    target = folder / str(name)
    if os.path.lexists(target):
        raise _name_taken(target)
    if not os.path.isdir(folder):
        raise BuildFailed(f"There is no folder {folder} to write to: make it first.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BuildFailed(f"You may not write to the folder {folder}: choose another one.")
    return target


def pack(
    name: UpdateName,
    contents: Contents,
    folder: Path,
    *,
    timestamp: int,
    compress: Compress = fastest,
    progress: Progress = lambda _: None,
) -> Path:
    """
    Write an update into a folder, and return its path.

    The archive gets its name once it is complete and on the disk, and never replaces another file.
    The same compressor gives the same bytes on each machine: the order, owners, modes and times of
    the members do not depend on those of the files.

    :param timestamp: the time of all members, in seconds since the epoch.
    :raises BuildFailed: if the update cannot be written, or a box would refuse it.
    """
    target = destination(name, folder)
    members = _members(name, contents)
    _vet(members)
    try:
        with _appearing_whole(target) as output, compress(output) as stream:
            for piece in _tar(members, timestamp, progress):
                stream.write(piece)
    except OSError as error:
        raise BuildFailed(
            f"{target} could not be written ({error.strerror}): fix that and build again."
        ) from error
    return target


def _members(name: UpdateName, contents: Contents) -> list[_Member]:
    parents = {str(above) for path in contents for above in PurePosixPath(path).parents}
    paths = dict[str, _Content].fromkeys(parents - {"."})
    paths |= contents
    paths["VERSION"] = f"{name.version}\n".encode()
    in_order = sorted(paths, key=_order)
    return [(name.folder, None), *((f"{name.folder}/{path}", paths[path]) for path in in_order)]


def _order(path: str) -> tuple[int, list[str]]:
    steps = path.split("/")
    return _PLACES.get(steps[0], len(_FIRST)), steps


def _vet(members: list[_Member]) -> None:
    """Check the members by the rules of the box, so that it can install the update."""
    rules = MemberRules()
    length = 0
    for path, content in members:
        size = _size(content)
        try:
            rules.check(Member(path, size, content is None, is_executable=False))
            length += len(_header(path, content, 0)) + size + _padding(size)
        except UnicodeEncodeError as error:
            raise BuildFailed(f"The name {quoted(path)} is not UTF-8: rename it.") from error
        except ArchiveRefused as error:
            raise BuildFailed(f"A box would refuse this update: {error}.") from error
    if length > LIMIT:
        raise BuildFailed(
            f"A box would refuse this update: it unpacks to more than {wording.mebibytes(LIMIT)}."
        )


def _header(path: str, content: _Content, timestamp: int) -> bytes:
    info = tarfile.TarInfo(path)
    info.mtime = timestamp
    info.size = _size(content)
    info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
    is_executable = content is None or (isinstance(content, File) and content.is_executable)
    info.mode = 0o755 if is_executable else 0o644
    # GNU's format, because each tar program reads its long names, unlike those of pax.
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def _size(content: _Content) -> int:
    if content is None:
        return 0
    return content.size if isinstance(content, File) else len(content)


def _padding(size: int) -> int:
    return -size % tarfile.BLOCKSIZE


def _tar(members: list[_Member], timestamp: int, progress: Progress) -> Iterator[bytes]:
    for path, content in members:
        yield _header(path, content, timestamp)
        if isinstance(content, File):
            yield from _pieces(content, progress)
        elif content is not None:
            yield content
        yield bytes(_padding(_size(content)))
    yield bytes(2 * tarfile.BLOCKSIZE)


def _pieces(file: File, progress: Progress) -> Iterator[bytes]:
    unread = file.size
    try:
        with file.source.open("rb", buffering=0) as source:
            while piece := source.read(min(unread, _PIECE)):
                unread -= len(piece)
                yield piece
                progress(len(piece))
            status = os.fstat(source.fileno())
    except OSError as error:
        raise unreadable(file.source, error) from error
    if unread or (status.st_size, status.st_mtime_ns) != (file.size, file.modified):
        raise BuildFailed(
            f"{file.source} changed while it was read: build again when it does not change."
        )


@contextmanager
def _appearing_whole(target: Path) -> Iterator[BinaryIO]:
    """Open a draft that gets its final name at the end of the context, unless there is an error."""
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with draft.open("xb") as output:
            yield output
            output.flush()
            files.sync(output.fileno())
        try:
            files.link_no_replace(draft, target)
        except FileExistsError as error:
            raise _name_taken(target) from error
    finally:
        draft.unlink(missing_ok=True)
    files.sync_folder(target.parent)


def _name_taken(target: Path) -> BuildFailed:
    return BuildFailed(f"{target} is already there, and a name is never used twice.")
