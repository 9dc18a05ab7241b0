"""A test case for archives, each unpacked into a folder where no other file may appear."""

import os
import stat
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.helpers.hostile_archives import NAME, VERSION

ARCHIVE = f"{NAME}.tar.bz2"

#: The mode and the content of each path in a folder; folders have no content.
Tree = dict[str, tuple[int, bytes | None]]


def tree(root: Path) -> Tree:
    """Return the full mode and the content of each path below a folder; links are not followed."""
    found: Tree = {}
    for path in root.rglob("*"):
        mode = path.lstat().st_mode
        found[str(path.relative_to(root))] = (
            mode,
            path.read_bytes() if stat.S_ISREG(mode) else None,
        )
    return found


def unpack_command(destination: Path) -> list[str]:
    """Return the command of the process that unpacks an archive from its standard input."""
    module = [sys.executable, "-m", "opq_twisted.archive.extract.unpack"]
    return [*module, str(destination), str(VERSION)]


class UnpackCase(SynchronousTestCase):
    """The paths of an archive and of a destination beside it."""

    def setUp(self) -> None:
        self.root = Path(self.mktemp())
        self.place = self.root / "place"
        self.place.mkdir(parents=True)
        self.archive = self.place / ARCHIVE
        self.destination = self.place / "unpacked"

    def assertNothing(self) -> None:
        """Only the archive is there."""
        self.assertEqual(os.listdir(self.place), [ARCHIVE])
        self.assertEqual(os.listdir(self.root), ["place"])
