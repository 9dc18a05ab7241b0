"""Knows which release is installed, and which one the box's image was made with."""

from pathlib import Path

from attrs import frozen

from opq_twisted.archive.name import parse_version
from opq_twisted.common.errors import InvalidName


@frozen
class Installed:
    """Reads the files that `install_update.sh` writes."""

    version_file: Path
    image_file: Path

    @property
    def version(self) -> int | None:
        """The release that is installed; None when nothing is known, or it cannot be read."""
        return _read_if_possible(self.version_file)

    def read(self) -> int | None:
        """
        Read which release is installed; None when nothing is known.

        :raises OSError: when it cannot be read.
        """
        return read_version(self.version_file)

    @property
    def changed(self) -> float:
        """When it was installed, in seconds since the epoch; 0 when nothing is known."""
        try:
            return self.version_file.stat().st_mtime
        except OSError:
            return 0.0

    @property
    def image(self) -> int | None:
        """The release that was the first on this box; None when nothing is known."""
        return _read_if_possible(self.image_file)

    @property
    def newest_known(self) -> int:
        """The newer of both, which was built in the past; 0 when nothing is known."""
        return max(self.version or 0, self.image or 0)


def read_version(path: Path) -> int | None:
    """
    Read a version from a file; None when there is none in it, or no file.

    :raises OSError: when it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return parse_version(file.read(64).decode("ascii", "replace"))
    except (FileNotFoundError, InvalidName):
        return None


def _read_if_possible(path: Path) -> int | None:
    try:
        return read_version(path)
    except OSError:
        return None
