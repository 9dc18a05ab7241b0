"""Tells whether what is written under a path is forgotten when the machine restarts."""

import re
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

_MOUNTS = Path("/proc/self/mountinfo")
_COMMAND_LINE = Path("/proc/cmdline")

_IN_MEMORY = ("tmpfs", "ramfs")

# raspi-config's own initramfs, Debian's overlayroot, and kernel-command-line(7).
_OVERLAY_IN_MEMORY = re.compile(
    r"(?:^|\s)(?:boot=overlay|overlayroot=\"?tmpfs\S*|systemd\.volatile=(?:yes|overlay|1|true|on))"
    r"(?=\s|$)"
)

#: Overlays may lie on one another, but not without an end.
_DEEPEST = 8


@frozen
class Mount:
    """One line of /proc/self/mountinfo (proc(5))."""

    point: str
    kind: str
    #: Of the file system.
    options: tuple[str, ...]

    @property
    def upper(self) -> str | None:
        """Where an overlay keeps what is written; None when it cannot be written."""
        return next((each[9:] for each in self.options if each.startswith("upperdir=")), None)


def is_forgotten(path: Path, mounts: Path = _MOUNTS, command_line: Path = _COMMAND_LINE) -> bool:
    """
    Whether the path lies on an overlay whose changes are kept in memory.

    A plain tmpfs does not count: it is somebody's decision, such as that of a test. Where nothing
    can be read, nothing is forgotten.
    """
    try:
        table = _read_mounts(mounts.read_text(errors="surrogateescape"))
        words = command_line.read_text(errors="replace")
        where = str(path.resolve())
    except (OSError, RuntimeError):
        return False
    for _ in range(_DEEPEST):
        mount = _mount_of(where, table)
        if mount is None or mount.kind != "overlay" or mount.upper is None:
            return False
        upper = _mount_of(mount.upper, table)
        if upper is None or upper == mount:
            # What the initramfs has mounted cannot be seen from here.
            return _OVERLAY_IN_MEMORY.search(words) is not None
        if upper.kind in _IN_MEMORY:
            return True
        where = mount.upper
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
    """Undo the escapes of spaces, tabs, newlines and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _mount_of(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """Find the mount that a path is on: the innermost, and of several there the last."""
    found = None
    for mount in mounts:
        inside = mount.point == "/" or path == mount.point or path.startswith(f"{mount.point}/")
        if inside and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found
