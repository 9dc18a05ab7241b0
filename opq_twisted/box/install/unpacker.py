"""Unpacks an archive in a child process, which vets it within limits."""

import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import BinaryIO

from twisted.internet.threads import deferToThread

from opq_twisted.archive.extract import unpack
from opq_twisted.archive.extract.child import child_command, child_environment
from opq_twisted.box.install.processes import ProcessRunner
from opq_twisted.common.errors import ArchiveRefused, BoxUnfit, NoRoom, OpqError

#: Seconds that the unpacking of an archive may take.
_TIMEOUT = 1800.0

_TOO_DEEP = (errno.EMFILE, errno.ENAMETOOLONG)


class Unpacker:
    """Unpacks one archive at a time into the same folder."""

    def __init__(self, programs: ProcessRunner, folder: Path) -> None:
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
        :raises BoxUnfit: when the child cannot do its work, as when the box is short of memory.
        """
        await self.clear()
        try:
            await self._run_child(archive, version)
            # What is installed from it, and the script that judges that after the reboot, must be
            # there whole after a power cut.
            await deferToThread(os.sync)
        except (OpqError, OSError):
            await self.clear()
            raise

    async def _run_child(self, archive: BinaryIO, version: int) -> None:
        try:
            ended = await self._programs.run(
                child_command(version, self.folder),
                timeout=_TIMEOUT,
                env=child_environment(),
                files={0: archive.fileno()},
            )
        except OSError as error:
            raise BoxUnfit(f"The box cannot start the unpacking: {error.strerror}.") from None
        if ended.status != 0:
            # The child says of an archive that it is to blame; all else says nothing about it.
            kind = {unpack.REFUSED: ArchiveRefused, unpack.NO_ROOM: NoRoom}.get(
                ended.status, BoxUnfit
            )
            lines = ended.output.strip().splitlines()
            raise kind(lines[-1] if lines else f"The unpacking {ended}.")
