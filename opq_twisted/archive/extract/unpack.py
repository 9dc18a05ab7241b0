"""Unpack an update into a fresh folder, vetted and bounded, in a process of its own."""

import argparse
import errno
import os
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from opq_twisted.archive.bzip2 import is_whole
from opq_twisted.archive.decompress import Decompress, fastest
from opq_twisted.archive.extract.limits import set_limits
from opq_twisted.archive.member_rules import LIMIT, MemberRules, Placement
from opq_twisted.archive.name import INSTALL_SCRIPT, UpdateName, parse_version
from opq_twisted.archive.tar_reader import Member, TarStream
from opq_twisted.common import wording
from opq_twisted.common.errors import ArchiveRefused, InvalidName, NoRoom, OpqError

#: The exit codes for `ArchiveRefused` and `NoRoom`; every other failure has another code.
REFUSED = 3
NO_ROOM = 4

#: How many bytes of the disk must stay free.
RESERVE = 64 << 20

FOLDER_MODE = 0o755
#: Of a file that is not executable, and of one that is.
FILE_MODES = (0o644, 0o755)

#: How a compiled program begins (elf(5)).
_ELF = b"\x7fELF"

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_VERSION_LENGTH = 64


def unpack(
    archive: Path,
    destination: Path,
    version: int,
    *,
    limit: int = LIMIT,
    reserve: int = RESERVE,
    decompress: Decompress = fastest,
) -> None:
    """
    Unpack the update `version` into `destination`, which must not exist, or leave nothing behind.

    Afterwards `destination` holds `VERSION` and `install_update.sh`, whether or not the archive has
    the usual top-level folder. Files are 0644 or 0755, folders 0755, all owned by the caller. It is
    not synced: after a power cut the folder cannot be trusted.

    :param limit: how many bytes the decompressed archive may have.
    :param reserve: how many bytes of the disk must stay free.
    :raises ArchiveRefused: when the archive is damaged, hostile, or not the update `version`.
    :raises NoRoom: when the disk has too little room for it beside the reserve.
    :raises OSError: when the archive cannot be read or the folder cannot be written.
    """
    with archive.open("rb", buffering=0) as file, _fresh_folder(destination) as folder:
        _fill(folder, file, version, limit, reserve, decompress)


@contextmanager
def _fresh_folder(path: Path) -> Iterator[int]:
    """Make a folder and open it; when something goes wrong nothing stays of it."""
    path.mkdir(mode=0o700)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield folder
    except BaseException:
        _empty(folder)
        path.rmdir()
        raise
    finally:
        os.close(folder)


def _empty(folder: int) -> None:
    with os.scandir(folder) as scan:
        entries = list(scan)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.name, dir_fd=folder)
        else:
            os.unlink(entry.name, dir_fd=folder)


def _fill(
    folder: int, file: BinaryIO, version: int, limit: int, reserve: int, decompress: Decompress
) -> None:
    tree = _Tree(folder, reserve)
    with _naming(version) as name:
        _extract(file, decompress, MemberRules(name.folder), tree, limit)
        tree.check_room(name)
        _check_layout(tree, version)
    os.fchmod(folder, FOLDER_MODE)


def validate(
    file: BinaryIO, version: int, *, limit: int = LIMIT, decompress: Decompress = fastest
) -> None:
    """
    Find out whether `unpack` would take an archive, and write nothing.

    :param file: the archive, at its beginning.
    :raises ArchiveRefused: when the archive is damaged, hostile, or not the update `version`.
    :raises OSError: when the archive cannot be read.
    """
    outline = _Outline()
    with _naming(version) as name:
        _extract(file, decompress, MemberRules(name.folder), outline, limit)
        _check_layout(outline, version)


@contextmanager
def _naming(version: int) -> Iterator[UpdateName]:
    """Name the archive in whatever refuses it."""
    name = UpdateName(version)
    try:
        yield name
    except ArchiveRefused as error:
        raise ArchiveRefused(f"{name} is refused: {error}.") from error


class _Outline:
    """What has to be known of an archive's files in order to validate it."""

    def __init__(self) -> None:
        #: The content of VERSION; None when there is none, or it is too long.
        self.version: bytes | None = None
        #: Whether the script is executable; None when there is none.
        self.script: bool | None = None
        #: The first bytes of the script.
        self.script_start = b""

    def add(self, placement: Placement, member: Member, content: Iterable[bytes]) -> None:
        """Note what the member brings into being, and write it."""
        if placement.file == "VERSION" and member.size <= _VERSION_LENGTH:
            self.version = b"".join(content)
            content = [self.version]
        if placement.file == INSTALL_SCRIPT:
            self.script = member.is_executable
            content = iter(content)
            self.script_start = next(content, b"")
            content = chain([self.script_start], content)
        self.write(placement, member, content)

    def write(self, placement: Placement, member: Member, content: Iterable[bytes]) -> None:
        """Write nothing: it is enough to know it."""


class _Tree(_Outline):
    """A folder that is filled while there is room; after that it only counts what is needed."""

    def __init__(self, root: int, reserve: int) -> None:
        """:param root: the folder's descriptor."""
        super().__init__()
        disk = os.statvfs(root)
        self._root = root
        self._reserve = reserve
        self._block = disk.f_frsize
        self._room = max(0, disk.f_bavail * disk.f_frsize - reserve)
        self._needed = 0
        self._is_full = False

    def write(self, placement: Placement, member: Member, content: Iterable[bytes]) -> None:
        """Create what the member brings into being."""
        self._needed += self._block * (len(placement.folders) + -(-member.size // self._block))
        self._is_full |= self._needed > self._room
        if self._is_full:
            return
        try:
            self._create(placement, member, content)
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            self._is_full = True

    def check_room(self, name: UpdateName) -> None:
        """
        Ask, at the end, whether all was written.

        :raises NoRoom: when it was not.
        """
        if self._is_full:
            raise NoRoom(
                f"Unpacking {name} needs {wording.mebibytes(self._needed)} of the disk beside the "
                f"{wording.mebibytes(self._reserve)} that must stay free: make room, then try "
                "again."
            )

    def _create(self, placement: Placement, member: Member, content: Iterable[bytes]) -> None:
        for folder in placement.folders:
            os.mkdir(folder, 0o700, dir_fd=self._root)
            os.chmod(folder, FOLDER_MODE, dir_fd=self._root)
        if placement.file is None:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(placement.file, flags, 0o600, dir_fd=self._root), "wb") as file:
            for piece in content:
                file.write(piece)
            os.fchmod(file.fileno(), FILE_MODES[member.is_executable])


def _extract(
    file: BinaryIO, decompress: Decompress, rules: MemberRules, outline: _Outline, limit: int
) -> None:
    if not is_whole(file.fileno(), os.fstat(file.fileno()).st_size):
        raise ArchiveRefused("it is cut off, or no bzip2 file")
    with decompress(file) as source:
        stream = TarStream(source)
        for member in stream:
            if stream.offset + member.size > limit:
                raise ArchiveRefused(f"it unpacks to more than {wording.mebibytes(limit)}")
            outline.add(rules.check(member), member, stream.content())


def _check_layout(outline: _Outline, version: int) -> None:
    """Refuse what is well-formed and yet not the update `version`."""
    if outline.version is None:
        raise ArchiveRefused("it has no file VERSION with its version")
    try:
        found = parse_version(outline.version.decode("ascii", "replace"))
    except InvalidName as error:
        raise ArchiveRefused(f"its VERSION does not hold {version}") from error
    if found != version:
        raise ArchiveRefused(f"its VERSION holds {found} and not {version}")
    if outline.script is None:
        raise ArchiveRefused("it has no file install_update.sh")
    if not outline.script:
        raise ArchiveRefused("its install_update.sh is not executable")
    if not _can_run(outline.script_start):
        raise ArchiveRefused(
            "its install_update.sh is nothing that a box can run: its first line must begin with "
            "#!, and end without a carriage return"
        )


def _can_run(start: bytes) -> bool:
    """Whether the kernel would know what to do with a file that begins like this."""
    first_line = start.partition(b"\n")[0]
    return start.startswith(_ELF) or (
        first_line.startswith(b"#!") and not first_line.endswith(b"\r")
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Unpack as the command line says, and tell in one sentence on stderr why not."""
    options = _parser().parse_args(arguments)
    _end_through_exceptions()
    try:
        _unpack_stdin(options)
    except OpqError as error:
        print(error, file=sys.stderr)
        return {ArchiveRefused: REFUSED, NoRoom: NO_ROOM}.get(type(error), 1)
    except MemoryError:
        # No archive takes more than the bounds of this process: others have taken it.
        name = UpdateName(options.version)
        print(f"{name} could not be unpacked: there is too little memory.", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{UpdateName(options.version)} could not be unpacked: {error}.", file=sys.stderr)
        return 1
    return 0


def _unpack_stdin(options: argparse.Namespace) -> None:
    archive = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 - it stays open
    # Whoever gave us the descriptor has read it to its end.
    archive.seek(0)
    if options.destination is None:
        set_limits(options.limit)
        validate(archive, options.version, limit=options.limit)
        return
    with _fresh_folder(options.destination) as folder:
        set_limits(options.limit)
        _fill(folder, archive, options.version, options.limit, options.reserve, fastest)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m opq_twisted.archive.extract.unpack",
        description=f"{__doc__} The archive is the standard input, a file.",
    )
    parser.add_argument(
        *("destination",),
        type=Path,
        nargs="?",
        help="the folder to make; without it the archive is only judged",
    )
    parser.add_argument("version", type=int, help="the version the archive must hold")
    parser.add_argument("--limit", type=int, default=LIMIT, help="most bytes to unpack")
    parser.add_argument(
        "--reserve", type=int, default=RESERVE, help="bytes to keep free on the disk"
    )
    return parser


def _end_through_exceptions() -> None:
    signal.signal(signal.SIGXCPU, _stop)
    signal.signal(signal.SIGTERM, _stop)


def _stop(number: int, _frame: FrameType | None) -> None:
    """End through an exception, once, so that nothing is left behind."""
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(f"Unpacking was stopped by {signal.Signals(number).name}.")


if __name__ == "__main__":
    sys.exit(main())
