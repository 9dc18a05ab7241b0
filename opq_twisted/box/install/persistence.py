"""Finds out whether files under a path are lost when the machine restarts."""

import re
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

_MOUNTS = Path("/proc/self/mountinfo")
_COMMAND_LINE = Path("/proc/cmdline")

_IN_MEMORY = ("tmpfs", "ramfs")

# The overlays of raspi-config's initramfs, of Debian's overlayroot, and of kernel-command-line(7).
_OVERLAY_IN_MEMORY = re.compile(
    r"(?:^|\s)(?:boot=overlay|overlayroot=\"?tmpfs\S*|systemd\.volatile=(?:yes|overlay|1|true|on))"
    r"(?=\s|$)"
)

#: The number of overlays on top of each other that are followed.
_MAX_DEPTH = 8


@frozen
class Mount:
    """One line of /proc/self/mountinfo (proc(5))."""

    point: str
    kind: str
    #: The options of the file system.
    options: tuple[str, ...]

    @property
    def upper(self) -> str | None:
        """The directory in which an overlay stores changes; None if it is read-only."""
        return next((each[9:] for each in self.options if each.startswith("upperdir=")), None)


def is_forgotten(path: Path, mounts: Path = _MOUNTS, command_line: Path = _COMMAND_LINE) -> bool:
    """
    Whether the path is on an overlay whose changes are stored in memory.

    A plain tmpfs does not count, because somebody chose it, for example for a test. If /proc cannot
    be read, the answer is no.
    """
    try:
        table = _read_mounts(mounts.read_text(errors="surrogateescape"))
        words = command_line.read_text(errors="replace")
        current = str(path.resolve())
    except (OSError, RuntimeError):
        return False
    for _ in range(_MAX_DEPTH):
        mount = _mount_of(current, table)
        if mount is None or mount.kind != "overlay" or mount.upper is None:
            return False
        upper = _mount_of(mount.upper, table)
        if upper is None or upper == mount:
            # The initramfs mounted the upper directory, which is not visible from here.
            return _OVERLAY_IN_MEMORY.search(words) is not None
        if upper.kind in _IN_MEMORY:
            return True
        current = mount.upper
    return False


def _read_mounts(text: str) -> list[Mount]:
    mounts = []
    for line in text.splitlines():
        first, _, last = line.partition(" - ")
        fields, more = first.split(" "), last.split(" ")
        if len(fields) > 4 and len(more) > 2:
            options = re.split(r"(?<!\\),", _plain(more[2]))
            mounts.append(Mount(_plain(fields[4]), more[0], tuple(options)))
    return mounts


def _plain(field: str) -> str:
    """Decode the octal escapes of spaces, tabs, newlines and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _mount_of(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """Find the mount of a path: the innermost, and of several at the same point the last."""
    found = None
    for mount in mounts:
        inside = mount.point == "/" or path == mount.point or path.startswith(f"{mount.point}/")
        if inside and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found
