"""Unpack an update into a new folder, in a process with limits of its own."""

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from opq_twisted.archive.bzip2 import is_whole
from opq_twisted.archive.decompress import Decompress, fastest
from opq_twisted.archive.extract.child import NO_ROOM, REFUSED
from opq_twisted.archive.extract.layout import LayoutCheck
from opq_twisted.archive.extract.limits import set_limits
from opq_twisted.archive.extract.tree import FOLDER_MODE, Tree
from opq_twisted.archive.member_rules import MemberRules
from opq_twisted.archive.name import UpdateName
from opq_twisted.archive.sizes import LIMIT, RESERVE
from opq_twisted.archive.tar_reader import TarStream
from opq_twisted.common import wording
from opq_twisted.common.errors import ArchiveRefused, NoRoom, OpqError


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
    Unpack the update `version` into the new folder `destination`; after an error it is removed.

    `destination` then holds `VERSION` and `install_update.sh`, whether or not the archive has the
    usual top-level folder. Files have the mode 0644 or 0755, folders 0755, and the caller owns all
    of them. Nothing is synced: after a power cut the folder cannot be trusted.

    :param limit: the largest size of the decompressed archive, in bytes.
    :param reserve: the number of bytes of the disk that must stay free.
    :raises ArchiveRefused: if the archive is damaged, hostile, or not the update `version`.
    :raises NoRoom: if the disk has too little room beside the reserve.
    :raises OSError: if the archive cannot be read, or the folder cannot be written.
    """
    with archive.open("rb", buffering=0) as file, _fresh_folder(destination) as folder:
        _fill(folder, file, version, limit, reserve, decompress)


@contextmanager
def _fresh_folder(path: Path) -> Iterator[int]:
    """Create a folder and open it; an error in the context removes the folder."""
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
    tree = Tree(folder, reserve)
    with _naming(version) as name:
        _extract(file, decompress, MemberRules(), tree, limit)
        tree.check_room(name)
        tree.check(version)
    os.fchmod(folder, FOLDER_MODE)


def validate(
    file: BinaryIO, version: int, *, limit: int = LIMIT, decompress: Decompress = fastest
) -> None:
    """
    Check whether `unpack` would accept an archive, and write nothing.

    :param file: the archive, at its beginning.
    :raises ArchiveRefused: if the archive is damaged, hostile, or not the update `version`.
    :raises OSError: if the archive cannot be read.
    """
    layout = LayoutCheck()
    with _naming(version):
        _extract(file, decompress, MemberRules(), layout, limit)
        layout.check(version)


@contextmanager
def _naming(version: int) -> Iterator[UpdateName]:
    """Add the archive's name to the reason of a refusal."""
    name = UpdateName(version)
    try:
        yield name
    except ArchiveRefused as error:
        raise ArchiveRefused(f"{name} is refused: {error}.") from error


def _extract(
    file: BinaryIO, decompress: Decompress, rules: MemberRules, layout: LayoutCheck, limit: int
) -> None:
    if not is_whole(file.fileno(), os.fstat(file.fileno()).st_size):
        raise ArchiveRefused("it is cut off, or no bzip2 file")
    with decompress(file) as source:
        stream = TarStream(source)
        for member in stream:
            if stream.offset + member.size > limit:
                raise ArchiveRefused(f"it unpacks to more than {wording.mebibytes(limit)}")
            layout.add(rules.check(member), member, stream.content())


def main(arguments: Sequence[str] | None = None) -> int:
    """Unpack as the command line says; report an error in one sentence on standard error."""
    options = _parser().parse_args(arguments)
    for number in (signal.SIGXCPU, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        _unpack_stdin(options)
    except OpqError as error:
        print(error, file=sys.stderr)
        return {ArchiveRefused: REFUSED, NoRoom: NO_ROOM}.get(type(error), 1)
    except MemoryError:
        # An archive never needs more than the limit: other processes have taken the memory.
        name = UpdateName(options.version)
        print(f"{name} could not be unpacked: there is too little memory.", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{UpdateName(options.version)} could not be unpacked: {error}.", file=sys.stderr)
        return 1
    return 0


def _unpack_stdin(options: argparse.Namespace) -> None:
    archive = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 - it stays open
    # The parent process has read it, which has moved the position.
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
        help="the folder to create; without it the archive is only checked",
    )
    parser.add_argument("version", type=int, help="the version the archive must hold")
    parser.add_argument(
        "--limit", type=int, default=LIMIT, help="the largest number of bytes to unpack"
    )
    parser.add_argument(
        "--reserve", type=int, default=RESERVE, help="the number of bytes to keep free on the disk"
    )
    return parser


def _stop(number: int, _frame: FrameType | None) -> None:
    """Raise an exception at the first signal, so that the folder is removed."""
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(f"Unpacking was stopped by {signal.Signals(number).name}.")


if __name__ == "__main__":
    sys.exit(main())
