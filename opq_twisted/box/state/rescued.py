"""What the rescue script, which installs the last good release again, has left for the agent."""

from pathlib import Path

from attrs import frozen

from opq_twisted.box.state.versions import read_version


@frozen
class Rescued:
    """Reads the file that the script writes before it reboots the box."""

    _path: Path

    def read(self) -> int | None:
        """
        Read which release was installed again; None when none was.

        :raises OSError: when it cannot be read.
        """
        return read_version(self._path)

    def forget(self) -> None:
        """
        Forget it, once it is written down what came of the update.

        :raises OSError: when the disk fails.
        """
        self._path.unlink(missing_ok=True)
