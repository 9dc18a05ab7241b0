"""The note that the rescue script leaves after it has installed the last good release again."""

from pathlib import Path

from attrs import frozen

from opq_twisted.box.state.versions import read_version


@frozen
class Rescued:
    """Reads the file that the script writes before it reboots the box."""

    _path: Path

    def read(self) -> int | None:
        """
        Read which release the script has installed; None if it has not.

        :raises OSError: if it cannot be read.
        """
        return read_version(self._path)

    def forget(self) -> None:
        """
        Remove the file, after the end of the update has been recorded.

        :raises OSError: if the disk fails.
        """
        self._path.unlink(missing_ok=True)
