"""Unpack an update into a fresh folder, vetted and bounded, in a process of its own."""

import argparse
import errno
import os
import resource
import shutil
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from opq_twisted.errors import ArchiveRefused, InvalidName, NoRoom, OpqError
from opq_twisted.release.bzip2 import is_whole
from opq_twisted.release.decompress import Decompress, fastest
from opq_twisted.release.name import UpdateName, parse_version
from opq_twisted.release.tarstream import Member, TarStream
from opq_twisted.release.vetting import LIMIT, Placement, Vetting

#: The exit codes for `ArchiveRefused` and `NoRoom`; every other failure has another code.
REFUSED = 3
NO_ROOM = 4

#: How many bytes of the disk must stay free.
RESERVE = 64 << 20

_ADDRESS_SPACE = 1 << 30
_CPU_SECONDS = 1800
_OPEN_FILES = 64
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
    name = UpdateName(version)
    destination.mkdir(mode=0o700)
    try:
        tree = _Tree(destination, reserve)
        with archive.open("rb", buffering=0) as file:
            _extract(file, decompress, Vetting(name.folder), tree, limit)
        tree.check_room(name)
        _check_layout(destination, version)
        destination.chmod(0o755)
    except BaseException as error:
        shutil.rmtree(destination)
        if isinstance(error, ArchiveRefused):
            raise ArchiveRefused(f"{name} is refused: {error}.") from error
        raise


class _Tree:
    """A folder that is filled while there is room; after that it only counts what is needed."""

    def __init__(self, root: Path, reserve: int) -> None:
        disk = os.statvfs(root)
        self._root = root
        self._reserve = reserve
        self._block = disk.f_frsize
        self._room = max(0, disk.f_bavail * disk.f_frsize - reserve)
        self._needed = 0
        self._is_full = False

    def add(self, placement: Placement, member: Member, content: Iterable[bytes]) -> None:
        """Create what the member brings into being."""
        self._needed += self._block * (len(placement.folders) + -(-member.size // self._block))
        self._is_full |= self._needed > self._room
        if self._is_full:
            return
        try:
            self._write(placement, member, content)
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
                f"Unpacking {name} needs {_mebibytes(self._needed)} of the disk beside the "
                f"{_mebibytes(self._reserve)} that must stay free: make room, then try again."
            )

    def _write(self, placement: Placement, member: Member, content: Iterable[bytes]) -> None:
        for folder in placement.folders:
            path = self._root / folder
            path.mkdir()
            path.chmod(0o755)
        if placement.file is None:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(self._root / placement.file, flags, 0o600), "wb") as file:
            for piece in content:
                file.write(piece)
            os.fchmod(file.fileno(), 0o755 if member.is_executable else 0o644)


def _extract(
    file: BinaryIO, decompress: Decompress, vetting: Vetting, tree: _Tree, limit: int
) -> None:
    if not is_whole(file.fileno(), os.fstat(file.fileno()).st_size):
        raise ArchiveRefused("it is cut off, or no bzip2 file")
    with decompress(file) as source:
        stream = TarStream(source)
        for member in stream:
            if stream.offset + member.size > limit:
                raise ArchiveRefused(f"it unpacks to more than {_mebibytes(limit)}")
            tree.add(vetting.admit(member), member, stream.content())


def _check_layout(root: Path, version: int) -> None:
    """Refuse what is well-formed and yet not the update `version`."""
    version_file, script = root / "VERSION", root / "install_update.sh"
    if not version_file.is_file() or version_file.stat().st_size > _VERSION_LENGTH:
        raise ArchiveRefused("it has no file VERSION with its version")
    try:
        found = parse_version(version_file.read_bytes().decode("ascii", "replace"))
    except InvalidName as error:
        raise ArchiveRefused(f"its VERSION does not hold {version}") from error
    if found != version:
        raise ArchiveRefused(f"its VERSION holds {found} and not {version}")
    if not script.is_file():
        raise ArchiveRefused("it has no file install_update.sh")
    if not script.stat().st_mode & 0o100:
        raise ArchiveRefused("its install_update.sh is not executable")


def _mebibytes(size: int) -> str:
    return f"{-(-size >> 20)} MiB"


def main(arguments: Sequence[str] | None = None) -> int:
    """Unpack as the command line says, and tell in one sentence on stderr why not."""
    options = _parser().parse_args(arguments)
    _limit_this_process(options.limit)
    try:
        unpack(
            options.archive,
            options.destination,
            options.version,
            limit=options.limit,
            reserve=options.reserve,
        )
    except OpqError as error:
        print(error, file=sys.stderr)
        return NO_ROOM if isinstance(error, NoRoom) else REFUSED
    except MemoryError:
        print(
            f"{UpdateName(options.version)} is refused: it takes too much memory.", file=sys.stderr
        )
        return REFUSED
    except OSError as error:
        print(f"{UpdateName(options.version)} could not be unpacked: {error}.", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m opq_twisted.release.unpack", description=__doc__
    )
    parser.add_argument("archive", type=Path, help="the archive")
    parser.add_argument("destination", type=Path, help="the folder to make")
    parser.add_argument("version", type=int, help="the version the archive must hold")
    parser.add_argument("--limit", type=int, default=LIMIT, help="most bytes to unpack")
    parser.add_argument(
        "--reserve", type=int, default=RESERVE, help="bytes to keep free on the disk"
    )
    return parser


def _limit_this_process(file_size: int) -> None:
    """Bound what a hostile archive could take, were there a hole in the decoding of it."""
    _lower(resource.RLIMIT_AS, _ADDRESS_SPACE)
    _lower(resource.RLIMIT_FSIZE, file_size)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _lower(resource.RLIMIT_CPU, _CPU_SECONDS)
    signal.signal(signal.SIGXCPU, _stop)
    signal.signal(signal.SIGTERM, _stop)


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _stop(number: int, _frame: FrameType | None) -> None:
    """End through an exception, once, so that nothing is left behind."""
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(f"Unpacking was stopped by {signal.Signals(number).name}.")


if __name__ == "__main__":
    sys.exit(main())
