"""Unpacks an archive in a child process with resource limits, which also checks its members."""

import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import BinaryIO

from twisted.internet.threads import deferToThread

from opq_twisted.archive.extract.child import (
    NO_ROOM,
    REFUSED,
    TIMEOUT,
    child_command,
    child_environment,
)
from opq_twisted.box.install.processes import ProcessRunner
from opq_twisted.box.install.shortage import code_of
from opq_twisted.common.errors import ArchiveRefused, BoxUnfit, NoRoom, OpqError

_TOO_DEEP = (errno.EMFILE, errno.ENAMETOOLONG)


class Unpacker:
    """Unpacks one archive at a time into the same folder."""

    def __init__(self, runner: ProcessRunner, folder: Path) -> None:
        self._runner = runner
        #: The folder of the unpacked update.
        self.folder = folder

    async def clear(self) -> None:
        """Remove the unpacked update; raises OSError if the disk fails."""
        # In a thread: there may be a hundred thousand files, on a slow card.
        await deferToThread(self._remove)

    def _remove(self) -> None:
        if self.folder.exists():
            try:
                shutil.rmtree(self.folder)
            except (RecursionError, OSError) as error:
                if isinstance(error, OSError) and error.errno not in _TOO_DEEP:
                    raise
                # A script may have made deeply nested folders: rmtree needs a frame and a file
                # descriptor for each level, and rm does not.
                subprocess.run(
                    ["rm", "-rf", "--one-file-system", "--", self.folder], stderr=subprocess.DEVNULL
                )
                if self.folder.exists():
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) from None

    async def unpack(self, archive: BinaryIO, version: int) -> None:
        """
        Unpack the archive into the folder, which is empty or removed after any error.

        :param archive: the verified file, still open: the child reads it from its beginning through
            this descriptor. Its position afterwards is undefined.
        :raises ArchiveRefused: if the archive is damaged, hostile, or of another version.
        :raises NoRoom: if the disk has too little room.
        :raises BoxUnfit: if the child cannot work, for example because the box lacks memory.
        """
        await self.clear()
        try:
            await self._run_child(archive, version)
            # After a power cut, the installed files and `verify_update.sh` must be complete.
            await deferToThread(os.sync)
        except (OpqError, OSError):
            await self.clear()
            raise

    async def _run_child(self, archive: BinaryIO, version: int) -> None:
        try:
            result = await self._runner.run(
                child_command(version, self.folder),
                timeout=TIMEOUT,
                env=child_environment(),
                files={0: archive.fileno()},
            )
        except OSError as error:
            sentence = f"The box cannot start the unpacking: {error.strerror}."
            raise BoxUnfit(sentence, code=code_of(sentence)) from None
        if result.status != 0:
            lines = result.output.strip().splitlines()
            sentence = lines[-1] if lines else f"The unpacking {result}."
            # Only these two statuses are about the archive or the room; all others blame the box.
            if result.status == REFUSED:
                raise ArchiveRefused(sentence)
            if result.status == NO_ROOM:
                raise NoRoom(sentence)
            # A child that says nothing was killed.
            raise BoxUnfit(sentence, code=code_of(sentence) if lines else "busy")
