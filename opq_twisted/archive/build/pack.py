"""Packs an update reproducibly: the same files and version give the same bytes."""

import os
import secrets
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from itertools import chain, groupby
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from opq_twisted.archive.build.components import AGENT, TRUSTED_ROOT, WHEELS
from opq_twisted.archive.build.compress import compress
from opq_twisted.archive.build.contents import Contents, File, unreadable
from opq_twisted.archive.build.cut import (
    DENSE_MEMBER,
    LARGE,
    SAMPLE,
    Cutter,
    choose_more_per_member,
    is_dense,
)
from opq_twisted.archive.member_rules import MemberRules
from opq_twisted.archive.name import INSTALL_SCRIPT, TOP_FOLDER, VERIFY_SCRIPT, UpdateName
from opq_twisted.archive.sizes import LIMIT
from opq_twisted.archive.tar_reader import Member, quoted
from opq_twisted.common import files, wording
from opq_twisted.common.errors import ArchiveRefused, BuildFailed
from opq_twisted.common.progress_bar import Progress

_VERSION = "VERSION"
#: VERSION is first, so that a box notices a wrong archive early. These components have always had
#: this order; others follow them by name, and the wheels are last.
_FIRST = (
    *(_VERSION, INSTALL_SCRIPT, VERIFY_SCRIPT, TRUSTED_ROOT),
    *(AGENT, "triggering", "kernel", "firmware"),
)
_PLACES = {name: place for place, name in enumerate(_FIRST)} | {WHEELS: len(_FIRST) + 1}
_READ = 256 << 10
#: 2000-01-01 00:00 UTC, in seconds since the epoch.
_YEAR_2000 = 946_684_800

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
    top_folder: str = TOP_FOLDER,
    progress: Progress = lambda _: None,
) -> Path:
    """
    Write an update into a folder, and return its path.

    The archive gets its name once it is complete and on the disk, and never replaces another file.
    Its bytes depend on the version and the contents alone: the order, owners, modes and times of
    the members do not depend on those of the files, and equal files are equal bytes in each update.

    :param top_folder: the name of the folder with all members. If it differs in each update, only
        the large files are equal bytes.
    :raises BuildFailed: if the update cannot be written, or a box would refuse it.
    """
    target = destination(name, folder)
    members = _members(name, contents)
    _vet(members, top_folder)
    try:
        with _appearing_whole(target) as output:
            compress(_pieces(members, top_folder, progress), output)
    except OSError as error:
        raise BuildFailed(
            f"{target} could not be written ({error.strerror}): fix that and build again."
        ) from error
    return target


def _members(name: UpdateName, contents: Contents) -> list[_Member]:
    parents = {str(above) for path in contents for above in PurePosixPath(path).parents}
    paths = dict[str, _Content].fromkeys(parents - {"."})
    paths |= contents
    paths[_VERSION] = f"{name.version}\n".encode()
    return [("", None), *((path, paths[path]) for path in sorted(paths, key=_order))]


def _order(path: str) -> tuple[int, list[str]]:
    steps = path.split("/")
    return _PLACES.get(steps[0], len(_FIRST)), steps


def _vet(members: list[_Member], top_folder: str) -> None:
    """Check the members by the rules of the box, so that it can install the update."""
    rules = MemberRules()
    length = 0
    for inside, content in members:
        path, size = _path(top_folder, inside), _size(content)
        try:
            rules.check(Member(path, size, content is None, is_executable=False))
            length += len(_header(path, content, b"")) + size + len(_padding(size))
        except UnicodeEncodeError as error:
            raise BuildFailed(f"The name {quoted(path)} is not UTF-8: rename it.") from error
        except ArchiveRefused as error:
            raise BuildFailed(f"A box would refuse this update: {error}.") from error
    if length > LIMIT:
        raise BuildFailed(
            f"A box would refuse this update: it unpacks to more than {wording.mebibytes(LIMIT)}."
        )


def _path(top_folder: str, inside: str) -> str:
    return f"{top_folder}/{inside}" if inside else top_folder


def _header(path: str, content: _Content, digest: bytes) -> bytes:
    """Return the header of a member, of whose content this is the SHA-256."""
    info = tarfile.TarInfo(path)
    info.mtime = _time(digest)
    info.size = _size(content)
    info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
    is_executable = content is None or (isinstance(content, File) and content.is_executable)
    info.mode = 0o755 if is_executable else 0o644
    # GNU's format, because each tar program reads its long names, unlike those of pax.
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def _time(digest: bytes) -> int:
    """
    Return the time of a member in seconds since the epoch, between the years 2000 and 2017.

    Equal contents have equal times, so that their headers are equal in all updates. Different ones
    have different times, because Python takes the bytecode of another file with the same size and
    time for that of this one. No clock is so slow that the time is in the future.
    """
    return _YEAR_2000 + (int.from_bytes(digest[:4], "big") >> 3)


def _size(content: _Content) -> int:
    if content is None:
        return 0
    return content.size if isinstance(content, File) else len(content)


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)


def _pieces(members: list[_Member], top_folder: str, progress: Progress) -> Iterator[bytes]:
    """Yield the tar stream in the pieces that are compressed separately."""
    sizes = ((_size(content), _is_dense(content)) for _, content in members)
    cutter = Cutter(choose_more_per_member(sizes))
    # VERSION is a component, too: it differs in each update, and must not change other pieces.
    for _, component in groupby(members, lambda member: member[0].partition("/")[0]):
        yield from cutter.end_piece()
        for inside, content in component:
            path, padding = _path(top_folder, inside), _padding(_size(content))
            if isinstance(content, File) and content.size >= LARGE:
                digest = _hash(content)
                parts = chain(_read_again(content, digest, progress), [padding])
                yield from cutter.add_large(_header(path, content, digest), parts)
            else:
                body = _body(content, progress)
                header = _header(path, content, sha256(body).digest())
                yield from cutter.add(inside, header + body + padding)
    yield from cutter.add("", bytes(2 * tarfile.BLOCKSIZE))
    yield from cutter.end_piece()


def _is_dense(content: _Content) -> bool:
    if not isinstance(content, File) or content.size < DENSE_MEMBER:
        return False
    try:
        with files.open_regular(content.source) as source:
            return is_dense(source.read(SAMPLE))
    except OSError as error:
        raise unreadable(content.source, error) from error


def _body(content: _Content, progress: Progress) -> bytes:
    if not isinstance(content, File):
        return content or b""
    body = b"".join(_read(content))
    progress(len(body))
    return body


def _hash(file: File) -> bytes:
    digest = sha256()
    for part in _read(file):
        digest.update(part)
    return digest.digest()


def _read_again(file: File, expected: bytes, progress: Progress) -> Iterator[bytes]:
    """Read a file whose header has been made; the file must still have this SHA-256."""
    digest = sha256()
    for part in _read(file):
        digest.update(part)
        yield part
        progress(len(part))
    if digest.digest() != expected:
        raise _changed(file)


def _read(file: File) -> Iterator[bytes]:
    unread = file.size
    try:
        with files.open_regular(file.source) as source:
            while part := source.read(min(unread, _READ)):
                unread -= len(part)
                yield part
            status = os.fstat(source.fileno())
    except OSError as error:
        raise unreadable(file.source, error) from error
    if unread or (status.st_size, status.st_mtime_ns) != (file.size, file.modified):
        raise _changed(file)


def _changed(file: File) -> BuildFailed:
    return BuildFailed(
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
