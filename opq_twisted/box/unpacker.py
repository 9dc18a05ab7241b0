"""Unpacks an archive in a child process, which vets it, and trusts the child no more than it."""

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

from twisted.internet.threads import deferToThread

from opq_twisted.box.processes import Programs
from opq_twisted.errors import ArchiveRefused, NoRoom, OpqError
from opq_twisted.release import unpack
from opq_twisted.release.confine import UNPRIVILEGED
from opq_twisted.release.unpack import FILE_MODES, FOLDER_MODE, RESERVE
from opq_twisted.release.vetting import MAX_DEPTH, MAX_MEMBERS

#: Seconds that the unpacking of an archive may take.
_TIMEOUT = 1800.0

# O_NONBLOCK: a FIFO would be waited for.
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


_TOO_DEEP = (errno.EMFILE, errno.ENAMETOOLONG)


class Unpacker:
    """Unpacks one archive at a time into the same folder."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        self._programs = programs
        #: Where the unpacked update lies.
        self.folder = folder

    async def clear(self) -> None:
        """
        Remove what was unpacked.

        :raises OSError: when the disk fails.
        """
        # In a thread: it may be a hundred thousand files, on a slow card.
        await deferToThread(self._remove)

    def _remove(self) -> None:
        if self.folder.exists():
            try:
                shutil.rmtree(self.folder)
            except (RecursionError, OSError) as error:
                if isinstance(error, OSError) and error.errno not in _TOO_DEEP:
                    raise
                # Some script may have made a folder in a folder in a folder: Python's own way needs
                # a frame and a descriptor for each.
                subprocess.run(
                    ["rm", "-rf", "--one-file-system", "--", self.folder], stderr=subprocess.DEVNULL
                )
                if self.folder.exists():
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) from None

    async def unpack(self, archive: BinaryIO, version: int) -> None:
        """
        Unpack the archive into the folder, which is empty or gone on any error.

        :param archive: an open file. The child reads this very file, from its beginning, whatever
            its name stands for by now; its position afterwards is anywhere.
        :raises ArchiveRefused: when the archive is damaged, hostile, or not that version's.
        :raises NoRoom: when the disk has too little room.
        :raises OpqError: when the child cannot do its work.
        """
        await self.clear()
        try:
            await self._run_child(archive, version)
            if os.geteuid() == 0:
                await deferToThread(adopt, self.folder)
            # What is installed from it, and the script that judges that after the reboot, must be
            # there whole after a power cut.
            await deferToThread(os.sync)
        except (OpqError, OSError):
            await self.clear()
            raise

    async def _run_child(self, archive: BinaryIO, version: int) -> None:
        ended = await self._programs.run(
            child_command(self.folder, version),
            timeout=_TIMEOUT,
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            files={0: archive.fileno()},
        )
        if ended.status != 0:
            kind = {unpack.REFUSED: ArchiveRefused, unpack.NO_ROOM: NoRoom}.get(
                ended.status, OpqError
            )
            lines = ended.output.strip().splitlines()
            raise kind(lines[-1] if lines else f"The unpacking {ended}.")


def child_command(folder: Path, version: int) -> list[str]:
    """Give what unpacks its standard input, a file, into a folder that is not there yet."""
    arguments = (os.fspath(folder), str(version), f"--reserve={RESERVE}")
    return [sys.executable, "-m", unpack.__name__, *arguments]


def adopt(folder: Path) -> None:
    """
    Make root the owner of what its unpacker unpacked as another user.

    The archive may have taken over the unpacker: whatever a sound one does not make is refused, and
    nothing is left in the reach of processes that outlive it.

    :raises ArchiveRefused: when there is anything that a sound unpacker does not make.
    :raises OSError: when the disk fails.
    """
    descriptor = os.open(folder, _OPEN | os.O_DIRECTORY)
    try:
        _Adoption().take_folder(descriptor, depth=0)
    finally:
        os.close(descriptor)


class _Adoption:
    """
    Takes one tree, from its root to its leaves.

    Each folder is taken before it is listed: then nobody else can change what lies in it.
    """

    def __init__(self) -> None:
        self._members = 0

    def take_folder(self, folder: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise _taken_over("makes folders deeper than an update may have them")
        _take(folder, stat.S_IFDIR, (FOLDER_MODE,))
        with os.scandir(folder) as entries:
            for entry in entries:
                self._take_entry(folder, entry, depth)

    def _take_entry(self, folder: int, entry: os.DirEntry[str], depth: int) -> None:
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise _taken_over("makes more files than an update may have")
        is_folder = entry.is_dir(follow_symlinks=False)
        if not is_folder and not entry.is_file(follow_symlinks=False):
            raise _taken_over("makes what is neither a file nor a folder")
        descriptor = os.open(entry.name, _OPEN, dir_fd=folder)
        try:
            if is_folder:
                self.take_folder(descriptor, depth + 1)
            else:
                _take_file(descriptor)
        finally:
            os.close(descriptor)


def _take_file(file: int) -> None:
    _take(file, stat.S_IFREG, FILE_MODES)
    # The kernel grants a read lease only when nobody has the file open for writing (fcntl(2)).
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            raise _taken_over("still writes to a file") from None
        # Some network file systems have no leases.
        if error.errno != errno.EINVAL:
            raise


def _take(descriptor: int, kind: int, modes: tuple[int, ...]) -> None:
    _require(os.fstat(descriptor), UNPRIVILEGED, kind, modes)
    os.fchown(descriptor, os.geteuid(), os.getegid())
    # Until now another process of that user could change it.
    _require(os.fstat(descriptor), os.geteuid(), kind, modes)


def _require(status: os.stat_result, owner: int, kind: int, modes: tuple[int, ...]) -> None:
    if status.st_uid != owner:
        raise _taken_over("leaves what is not its own")
    if stat.S_IFMT(status.st_mode) != kind or stat.S_IMODE(status.st_mode) not in modes:
        raise _taken_over("leaves what an update cannot hold")
    if kind == stat.S_IFREG and status.st_nlink != 1:
        raise _taken_over("leaves a file with a second name")


def _taken_over(what: str) -> ArchiveRefused:
    return ArchiveRefused(f"The archive is refused: the process that unpacks it {what}.")
