"""Files that others may have made are read within bounds."""

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.common import files


class ReadTests(SynchronousTestCase):
    """What `read` gives."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def refuses(self, path: Path, reason: str) -> None:
        error = self.assertRaises(OSError, files.read, path, 3)
        self.assertEqual(error.strerror, reason)

    def test_whole(self) -> None:
        """All of it, up to the last byte that is allowed."""
        for content in (b"", b"abc"):
            self.path.write_bytes(content)
            self.assertEqual(files.read(self.path, 3), content)

    def test_too_long(self) -> None:
        """One byte more is too many, and the rest is not read."""
        self.path.write_bytes(b"abcd")
        self.refuses(self.path, "It has more than 3 bytes")
        os.truncate(self.path, 1 << 40)
        self.refuses(self.path, "It has more than 3 bytes")

    def test_not_regular(self) -> None:
        """What would be waited for, or never ends, is not read."""
        os.mkfifo(self.path)
        self.refuses(self.path, "It is not a regular file")
        self.refuses(Path("/dev/zero"), "It is not a regular file")
        self.refuses(Path("/"), "Is a directory")
        self.refuses(Path("/none"), "No such file or directory")
