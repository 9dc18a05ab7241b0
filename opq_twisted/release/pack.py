"""Pack an update: the same files and version always give the same bytes."""

import errno
import os
import re
import secrets
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from opq_twisted.durable import sync_folder
from opq_twisted.errors import ArchiveRefused, BuildFailed
from opq_twisted.release.compress import Compress, fastest
from opq_twisted.release.name import UpdateName
from opq_twisted.release.tarstream import Member, quoted
from opq_twisted.release.unpack import LIMIT
from opq_twisted.release.vetting import Vetting

AGENT = "box-configuration-daemon"
COMPONENTS = (AGENT, "triggering", "kernel", "firmware")
INSTALL_SCRIPT = "install_update.sh"
WHEELS = "wheels"
#: VERSION comes first, so that a box can tell early that an archive is not what it wants.
_LAYOUT = ("VERSION", INSTALL_SCRIPT, *COMPONENTS, WHEELS)
_LITTER = re.compile(r"__pycache__|.*\.pyc|\.git", re.DOTALL)
_PIECE = 256 << 10
_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


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
_Content = File | bytes | None
_Member = tuple[str, _Content]
#: Told how many more bytes have been read.
Progress = Callable[[int], object]


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
        raise _unreadable(path, error) from error
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
        raise _unreadable(path, error) from error
    if start != b"#!":
        raise BuildFailed(f"{path} is no script: its first line must begin with #!.")
    return File(path, file.size, file.modified, is_executable=True)


def destination(name: UpdateName, folder: Path) -> Path:
    """
    Tell where an update is to be written.

    :raises BuildFailed: when that name is taken, or nothing can be written there.
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
    Write an update into a folder, and give its path.

    The archive appears under its name once it is whole and on the disk, and never replaces
    another. The same compressor gives the same bytes on every machine: order, owners, modes and
    times of the members do not depend on the files' own.

    :param timestamp: every member's time, in seconds since the epoch.
    :raises BuildFailed: when it cannot be written, or a box would refuse it.
    """
    target = destination(name, folder)
    members = _members(name, contents)
    _vet(members, name.folder)
    try:
        with _appearing_whole(target) as output, compress(output) as stream:
            for piece in _tar(members, timestamp, progress):
                stream.write(piece)
    except OSError as error:
        raise BuildFailed(
            f"{target} could not be written ({error.strerror}): mend that and build again."
        ) from error
    return target


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not _LITTER.fullmatch(entry.name)]
    except OSError as error:
        raise _unreadable(folder, error) from error


def _own_file(path: Path, folder: Path) -> File:
    # Not Path.resolve(), which raises RuntimeError for a link to itself.
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise BuildFailed(
            f"{path} is a link that leads out of {folder}: put the file itself there."
        )
    return find_file(path)


def _members(name: UpdateName, contents: Contents) -> list[_Member]:
    parents = {str(above) for path in contents for above in PurePosixPath(path).parents}
    paths = dict[str, _Content].fromkeys(parents - {"."})
    paths |= contents
    paths["VERSION"] = f"{name.version}\n".encode()
    in_order = sorted(paths, key=lambda path: (_LAYOUT.index(path.split("/")[0]), path.split("/")))
    return [(name.folder, None), *((f"{name.folder}/{path}", paths[path]) for path in in_order)]


def _vet(members: list[_Member], top_folder: str) -> None:
    """Ask the box's own rules, so that what is built can also be installed."""
    vetting = Vetting(top_folder)
    length = 0
    for path, content in members:
        size = _size(content)
        try:
            vetting.admit(Member(path, size, content is None, is_executable=False))
            length += len(_header(path, content, 0)) + size + _padding(size)
        except UnicodeEncodeError as error:
            raise BuildFailed(f"The name {quoted(path)} is not UTF-8: rename it.") from error
        except ArchiveRefused as error:
            raise BuildFailed(f"A box would refuse this update: {error}.") from error
    if length > LIMIT:
        raise BuildFailed(
            f"A box would refuse this update: it unpacks to more than {LIMIT >> 20} MiB."
        )


def _header(path: str, content: _Content, timestamp: int) -> bytes:
    info = tarfile.TarInfo(path)
    info.mtime = timestamp
    info.size = _size(content)
    info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
    is_executable = content is None or (isinstance(content, File) and content.is_executable)
    info.mode = 0o755 if is_executable else 0o644
    # GNU's format and not pax: every tar reads its long names.
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
        raise _unreadable(file.source, error) from error
    if unread or (status.st_size, status.st_mtime_ns) != (file.size, file.modified):
        raise BuildFailed(
            f"{file.source} changed while it was read: build again when it is at rest."
        )


@contextmanager
def _appearing_whole(target: Path) -> Iterator[BinaryIO]:
    """Give a file that gets its name once it is on the disk, and is gone if that fails."""
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with draft.open("xb") as output:
            yield output
            output.flush()
            os.fsync(output.fileno())
        _give_name(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(target.parent)


def _give_name(draft: Path, target: Path) -> None:
    try:
        # Unlike a rename this never replaces what another builder wrote in the meantime.
        target.hardlink_to(draft)
    except FileExistsError as error:
        raise _name_taken(target) from error
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        draft.rename(target)


def _name_taken(target: Path) -> BuildFailed:
    return BuildFailed(f"{target} is already there, and a name is never used twice.")


def _unreadable(path: Path, error: OSError) -> BuildFailed:
    return BuildFailed(f"{path} cannot be read ({error.strerror}): mend that and build again.")
