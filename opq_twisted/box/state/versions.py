"""Reads which releases were installed: by the last update, with the image, by the rescue script."""

from pathlib import Path

from attrs import define, frozen

from opq_twisted.archive.name import parse_version
from opq_twisted.common.errors import InvalidName


@define
class Installed:
    """Reads the files that `install_update.sh` writes."""

    version_file: Path
    image_file: Path
    #: The release that runs: the installed one, as it was at the agent's start. One that was
    #: installed since then waits for its reboot. None if unknown.
    running: int | None = None

    @property
    def version(self) -> int | None:
        """The release that is installed; None if unknown, or if it cannot be read."""
        return _read_if_possible(self.version_file)

    def read(self) -> int | None:
        """Read which release is installed; None if unknown. Raises OSError as `read_version`."""
        return read_version(self.version_file)

    @property
    def changed(self) -> float:
        """When it was installed, in seconds since the epoch; 0 if unknown."""
        try:
            return self.version_file.stat().st_mtime
        except OSError:
            return 0.0

    @property
    def image(self) -> int | None:
        """The first release of this box; None if unknown."""
        return _read_if_possible(self.image_file)

    @property
    def newest_known(self) -> int:
        """The newer of both, which was built in the past; 0 if unknown."""
        return max(self.version or 0, self.image or 0)


@frozen
class Rescued:
    """
    Reads the note that the rescue script writes before it reboots the box.

    Both methods raise OSError if the disk fails.
    """

    _path: Path

    def read(self) -> int | None:
        """Read which release the script has installed; None if it has not."""
        return read_version(self._path)

    def forget(self) -> None:
        """Remove the note, after the end of the update has been recorded."""
        self._path.unlink(missing_ok=True)


def read_version(path: Path) -> int | None:
    """Read a version; None if the file is missing, or has none; raises OSError if unreadable."""
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
