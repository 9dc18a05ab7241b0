"""Checks whether the box itself is fit for an installation."""

import os
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen
from twisted.internet.threads import deferToThread

from opq_twisted.box.config.settings import UpdaterConfig
from opq_twisted.box.install import persistence
from opq_twisted.box.install.shortage import code_of
from opq_twisted.box.install.units import TransientUnits
from opq_twisted.common import wording
from opq_twisted.common.errors import BoxUnfit

#: The exit status of a script that blames the box and has changed nothing: EX_TEMPFAIL of
#: sysexits.h. The last line of its output says what to do.
BOX_AT_FAULT = 75

_UNIT = "opq-box-preflight"

#: Seconds.
_TIMEOUT = 120.0

#: Bytes that must stay free after an installation.
_RESERVE = 16 << 20

_BLOCK = 4096

#: The partitions of kernels and firmware. A copy that does not fit fills them completely.
_BOOT = (Path("/boot"), Path("/boot/firmware"))
#: Bytes; a partition with less free space counts as full.
_FULL = 1 << 20

#: The size of an installed wheel with its bytecode, in multiples of the wheel.
_WHEEL_GROWTH = 4

_SCRIPT = Path(__file__).with_name("preflight.sh").read_text()


@frozen
class Room:
    """The free space of a file system, or the space that an installation needs."""

    #: Bytes.
    size: int
    inodes: int


class Preflight:
    """
    Finds what the box lacks, before anything is changed and after a failed installation.

    It writes files and runs a program in the folders in which `install_update.sh` does so.
    """

    def __init__(self, units: TransientUnits, config: UpdaterConfig) -> None:
        self._units = units
        self._prefix = config.prefix
        self._log = config.log
        self._kills = _memory_kills()

    async def require(self, version: int, folder: Path | None = None, room: int = 0) -> None:
        """
        Check that the box is fit for the installation of a release.

        :param folder: the unpacked update; None before it is unpacked.
        :param room: bytes that the installed release was found to need.
        :raises BoxUnfit: if the box is not fit; the text gives the reason.
        """
        self._kills = _memory_kills()
        for path in (self._prefix, self._units.state_dir):
            if persistence.is_forgotten(path):
                raise BoxUnfit(
                    f"The box forgets at each restart what is written in {path}: its file system "
                    "is an overlay in memory. Switch the overlay off, as with raspi-config."
                )
        await self._run_script("before", version, folder, self._folders)
        needed = Room(room, 0)
        if folder is not None:
            needed = await deferToThread(_needed, folder)
        self._require_room(needed)

    async def find_problem(self, version: int) -> BoxUnfit | None:
        """
        Find what the box lacks, or lacked, after a failed installation.

        :returns: an error with a sentence about it; None if the box is not at fault.
        """
        try:
            # The log's folder is included: a script whose output cannot be written fails.
            await self._run_script("after", version, None, [*self._folders, self._log.parent])
        except BoxUnfit as error:
            return error
        if _memory_kills() > self._kills:
            sentence = "The box ran out of memory. Stop the program that uses it."
            return BoxUnfit(sentence, code="busy")
        full = next(filter(_is_full_partition, _BOOT), None)
        if full is None:
            return None
        return BoxUnfit(f"There is no room in {full}. Make some.", code="no-room")

    async def require_running(self, version: int) -> None:
        """Raise BoxUnfit with the reason if the box cannot run programs of the unpacked update."""
        await self._run_script("running", version, None, [])

    @property
    def _folders(self) -> list[Path]:
        """The folders in which an installation writes; pip uses /tmp."""
        return [self._prefix, self._units.state_dir, Path("/tmp")]  # noqa: S108 - mktemp

    async def _run_script(
        self, phase: str, version: int, folder: Path | None, writable: Sequence[Path]
    ) -> None:
        try:
            result = await self._units.run(
                _UNIT,
                ["sh", "-c", _SCRIPT, "sh", phase, *map(os.fspath, writable)],
                folder or self._units.state_dir,
                version,
                _TIMEOUT,
            )
        except OSError as error:
            sentence = f"The box cannot start programs: {error.strerror}."
            raise BoxUnfit(sentence, code=code_of(sentence)) from None
        if result.status != 0:
            reason = result.output.strip().rpartition("\n")[2].rstrip(".")
            if result.status != BOX_AT_FAULT:
                reason = f"The box cannot run what an installation needs: {reason or result}"
            raise BoxUnfit(f"{reason}.", code=code_of(result.output))

    def _require_room(self, needed: Room) -> None:
        try:
            room = _free(self._prefix)
        except OSError as error:
            raise BoxUnfit(f"The box cannot read {self._prefix}: {error.strerror}.") from None
        if needed.size and room.size < needed.size + _RESERVE:
            raise BoxUnfit(
                f"The installed release needs {wording.mebibytes(needed.size + _RESERVE)} free "
                f"under {self._prefix}, and there are {wording.mebibytes(room.size)}. Make room.",
                room=needed.size,
                code="no-room",
            )
        if room.inodes < needed.inodes:
            raise BoxUnfit(
                f"The installed release needs {needed.inodes} files under {self._prefix}, and the "
                f"file system has room for {room.inodes}. Remove files.",
                code="no-room",
            )


def _needed(folder: Path) -> Room:
    """Estimate the space that an unpacked update needs when it is installed."""
    size = inodes = 0
    for path, _, names in os.walk(folder):
        size, inodes = size + _BLOCK, inodes + 1
        for name in names:
            length = os.lstat(os.path.join(path, name)).st_size
            if name.endswith(".whl"):
                size += _WHEEL_GROWTH * length
                inodes += length // _BLOCK
            else:
                size += -(-length // _BLOCK) * _BLOCK
                inodes += 1
    return Room(size, inodes)


def _free(path: Path) -> Room:
    while not path.exists() and path != path.parent:
        path = path.parent
    disk = os.statvfs(path)
    # Some file systems do not count inodes.
    inodes = disk.f_favail if disk.f_files else 1 << 62
    return Room(disk.f_bavail * disk.f_frsize, inodes)


def _is_full_partition(path: Path) -> bool:
    try:
        return path.is_mount() and _free(path).size < _FULL
    except OSError:
        return False


def _memory_kills() -> int:
    """Return how many processes the kernel has killed since boot because memory ran out."""
    try:
        counters = Path("/proc/vmstat").read_text().split("\n")
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in counters if line.startswith("oom_kill "))
