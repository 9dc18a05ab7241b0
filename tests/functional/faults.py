"""Makes chosen file operations of a program fail, or kills the program at one of them."""

import errno
import mmap
import struct
import subprocess
from pathlib import Path

from attrs import frozen

from tests.functional.processes import require

_SOURCE = Path(__file__).with_suffix(".c")

#: The layout of `struct control` in the C source.
_CONTROL = struct.Struct("=5q")

#: The number of the last failing call if all calls fail from the first on.
_ALWAYS = 2**62

_NEVER = 0

#: No error: the calls are only logged.
_NONE = 0

_BEFORE, _AFTER = 1, 2


@frozen
class Operation:
    """A logged or failed call below the folders, or the start of a program."""

    number: int
    call: str
    #: The numbers of the possible errors.
    errors: frozenset[int]
    #: For the start of a program: its arguments.
    path: Path

    @classmethod
    def parse(cls, line: str) -> "Operation":
        """Read a line of the log."""
        number, call, errors, path = line.split(" ", 3)
        names = errors.split(",")[:-1]
        return cls(int(number), call, frozenset(getattr(errno, name) for name in names), Path(path))

    def __str__(self) -> str:
        return f"{self.call} {self.path}"


def build(folder: Path) -> Path:
    """Compile the library that makes calls fail; without a compiler the test is skipped."""
    require("gcc")
    library = folder / "faults.so"
    options = ("-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror")
    subprocess.run(["gcc", *options, "-o", library, _SOURCE, "-ldl"], check=True, timeout=60)
    return library


class Faults:
    """The faults of a program, and of the programs that continue its work."""

    def __init__(self, library: Path, folder: Path, below: list[Path]) -> None:
        """
        Prepare the control file; no call fails yet.

        :param folder: the folder of the control file and the log.
        :param below: the folders whose calls count.
        """
        control = folder / "faults.control"
        control.write_bytes(bytes(_CONTROL.size))
        self._log = folder / "faults.log"
        with control.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), _CONTROL.size)
        #: The environment variables that the program needs.
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAULT_DIRS": ":".join(map(str, below)),
            "FAULT_CONTROL": str(control),
            "FAULT_LOG": str(self._log),
        }

    def fail(self, error: int, number: int, lasting: bool = False) -> None:
        """Make the n-th call that can have this error fail, or all such calls from it on."""
        last = _ALWAYS if lasting else number
        self._control[:] = _CONTROL.pack(error, number, last, 0, 0)

    def kill(self, number: int, after: bool) -> None:
        """
        Kill the program right before the n-th step from now on, or right after it.

        A step is a call that changes files or starts a program; all steps are logged.
        """
        when = _AFTER if after else _BEFORE
        self._control[:] = _CONTROL.pack(_NONE, number, number, 0, when)

    def end(self) -> None:
        """Let nothing fail any more."""
        self._control[:] = _CONTROL.pack(errno.EIO, _NEVER, _NEVER, 0, 0)

    @property
    def count(self) -> int:
        """The number of counted calls since the last change of the faults."""
        count: int = _CONTROL.unpack(self._control[:])[3]
        return count

    @property
    def operations(self) -> list[Operation]:
        """The failed calls; all calls if none is to fail or the program is to be killed."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [Operation.parse(line) for line in lines]
