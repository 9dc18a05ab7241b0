"""A Debian 12 in a folder, for commands as root."""

import os
import shutil
from pathlib import Path

from tests.vm.image import small_system
from tests.vm.releases import run

#: The dependencies of the package, so that it can be installed without a network.
_PACKAGES = "python3,systemd"

#: An ordinary user becomes root in a name space, which keeps the files' owners.
_AS_ROOT = () if os.geteuid() == 0 else ("unshare", "--map-auto", "--map-root-user")

#: Run in name spaces of its own: $1 is the root, and $2 the command. The shell stays, and stays
#: root: so it ends when unshare is killed, and all others there end with it.
_ENTER = """set -eu
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
[ "$3" = rw ] || mount -o remount,bind,ro "$1"
chroot "$1" sh -ec "$2"
exit 0
"""


class Root:
    """A system that is removed at the end of its context."""

    def __init__(self, folder: Path) -> None:
        """:param folder: the folder of the system and of its kept original."""
        self.path = folder / "root"
        self._remove()
        pristine = small_system(folder, "pristine", _PACKAGES)
        self.path.mkdir(parents=True)
        run([*_AS_ROOT, "tar", "xf", str(pristine), "-C", str(self.path), "--exclude=./dev/*"])

    def __enter__(self) -> "Root":
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _remove(self) -> None:
        if self.path.exists():
            run([*_AS_ROOT, "rm", "-rf", "--one-file-system", str(self.path)])

    def entering(self, command: str, *, writable: bool = True) -> list[str]:
        """Return the command line that runs a command for sh in the system."""
        return [
            *(*_AS_ROOT, "unshare", "--mount", "--pid", "--fork", "--kill-child"),
            *("sh", "-c", _ENTER, "sh", str(self.path), command, "rw" if writable else "ro"),
        ]

    def run(self, command: str) -> str:
        """
        Run a command; returns its output.

        :raises Broken: if it fails.
        """
        return run(self.entering(command))

    def read(self, path: str) -> str:
        """Read a file of the system."""
        return self.run(f"cat {path}")

    def copy(self, source: Path, folder: str) -> str:
        """Copy a file into a folder of the system; returns its path there."""
        shutil.copy(source, self.path / folder)
        return f"/{folder}/{source.name}"
