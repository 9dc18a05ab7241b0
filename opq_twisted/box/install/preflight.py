"""Measures whether the box itself can take an installation."""

import os
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen
from twisted.internet.threads import deferToThread

from opq_twisted.box.config import UpdaterConfig
from opq_twisted.box.install import persistence
from opq_twisted.box.install.units import TransientUnits
from opq_twisted.common import wording
from opq_twisted.common.errors import BoxUnfit

#: Exit status of a script that finds the box at fault, and leaves it as it was: EX_TEMPFAIL of
#: sysexits.h. The last line of its output says what to do.
BOX_AT_FAULT = 75

_UNIT = "opq-box-preflight"

#: Seconds.
_TIMEOUT = 120.0

#: Bytes that must stay free beside an installed copy.
_RESERVE = 16 << 20

_BLOCK = 4096

#: Where components put kernels and firmware. A copy that did not fit fills it to the last bytes.
_BOOT = (Path("/boot"), Path("/boot/firmware"))
_FULL = 1 << 20

#: An installed wheel and its bytecode, in multiples of the wheel.
_WHEEL_GROWTH = 4

_MEASURE = Path(__file__).with_name("preflight.sh").read_text()


@frozen
class Room:
    """What a file system has, or has to have."""

    #: Bytes.
    size: int
    inodes: int


class Preflight:
    """
    Tells what the box lacks, before anything is changed, and after an installation has failed.

    It tries: it writes, and runs a program, where `install_update.sh` does so.
    """

    def __init__(self, scripts: TransientUnits, config: UpdaterConfig) -> None:
        self._scripts = scripts
        self._prefix = config.prefix
        self._log = config.log
        self._kills = _memory_kills()

    async def require(self, version: int, folder: Path | None = None, room: int = 0) -> None:
        """
        Make sure that the box can take a release.

        :param folder: where the update is unpacked; None before that.
        :param room: bytes that its installed copy was found to need.
        :raises BoxUnfit: when the box cannot; the text says why.
        """
        self._kills = _memory_kills()
        for path in (self._prefix, self._scripts.state_dir):
            if persistence.is_forgotten(path):
                raise BoxUnfit(
                    f"The box forgets at each restart what is written in {path}: its file system "
                    "is an overlay in memory. Switch the overlay off, as with raspi-config."
                )
        await self._measure("before", version, folder, self._folders)
        needed = Room(room, 0)
        if folder is not None:
            needed = await deferToThread(_needed, folder)
        self._require_room(needed)

    async def blame(self, version: int) -> str | None:
        """
        Find what the box lacks, or lacked, after an installation has failed.

        :returns: the sentence that says so; None when the box is not at fault.
        """
        try:
            # An installer whose output cannot be written fails.
            await self._measure("after", version, None, [*self._folders, self._log.parent])
        except BoxUnfit as error:
            return str(error)
        if _memory_kills() > self._kills:
            return "The box ran out of memory. Stop what takes it."
        full = next(filter(_is_full_partition, _BOOT), None)
        return None if full is None else f"There is no room in {full}. Make some."

    async def require_running(self, version: int) -> None:
        """
        Make sure that the box can run what was unpacked.

        :raises BoxUnfit: when it cannot; the text says why.
        """
        await self._measure("running", version, None, [])

    @property
    def _folders(self) -> list[Path]:
        """Where an installation writes; pip does so in /tmp."""
        return [self._prefix, self._scripts.state_dir, Path("/tmp")]  # noqa: S108 - mktemp

    async def _measure(
        self, when: str, version: int, folder: Path | None, writes: Sequence[Path]
    ) -> None:
        try:
            ended = await self._scripts.run(
                _UNIT,
                ["sh", "-c", _MEASURE, "sh", when, *map(os.fspath, writes)],
                folder or self._scripts.state_dir,
                version,
                _TIMEOUT,
            )
        except OSError as error:
            raise BoxUnfit(f"The box cannot start programs: {error.strerror}.") from None
        if ended.status != 0:
            reason = ended.output.strip().rpartition("\n")[2].rstrip(".")
            if ended.status != BOX_AT_FAULT:
                reason = f"The box cannot run what an installation needs: {reason or ended}"
            raise BoxUnfit(f"{reason}.")

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
            )
        if room.inodes < needed.inodes:
            raise BoxUnfit(
                f"The installed release needs {needed.inodes} files under {self._prefix}, and the "
                f"file system has room for {room.inodes}. Remove files."
            )


def _needed(folder: Path) -> Room:
    """Estimate what the installed copy of an unpacked update takes."""
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
    """How many processes the kernel has killed for want of memory since the boot."""
    try:
        counters = Path("/proc/vmstat").read_text().split("\n")
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in counters if line.startswith("oom_kill "))
