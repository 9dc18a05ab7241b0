"""Unpacks an archive in a child process, which vets it."""

import os
import shutil
import sys
from pathlib import Path

from twisted.internet.threads import deferToThread

from opq_twisted.box.processes import Programs
from opq_twisted.errors import ArchiveRefused, NoRoom, OpqError
from opq_twisted.release import unpack
from opq_twisted.release.unpack import RESERVE

#: Seconds that the unpacking of an archive may take.
_TIMEOUT = 1800.0


class Unpacker:
    """Unpacks one archive at a time into the same folder."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        self._programs = programs
        #: Where the unpacked update lies.
        self.folder = folder

    def clear(self) -> None:
        """
        Remove what was unpacked.

        :raises OSError: when the disk fails.
        """
        if self.folder.exists():
            shutil.rmtree(self.folder)

    async def unpack(self, archive: Path, version: int) -> None:
        """
        Unpack the archive into the folder, which is empty or gone on any error.

        :raises ArchiveRefused: when the archive is damaged, hostile, or not that version's.
        :raises NoRoom: when the disk has too little room.
        """
        await deferToThread(self.clear)
        ended = await self._programs.run(
            [
                sys.executable,
                "-m",
                unpack.__name__,
                os.fspath(archive),
                os.fspath(self.folder),
                str(version),
                f"--reserve={RESERVE}",
            ],
            timeout=_TIMEOUT,
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
        )
        if ended.status != 0:
            await deferToThread(self.clear)
            kind = {unpack.REFUSED: ArchiveRefused, unpack.NO_ROOM: NoRoom}.get(
                ended.status, OpqError
            )
            lines = ended.output.strip().splitlines()
            raise kind(lines[-1] if lines else f"The unpacking {ended}.")
