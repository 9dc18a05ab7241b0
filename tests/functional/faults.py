"""Lets chosen file operations of a program fail, or be its last, from outside of it."""

import errno
import mmap
import struct
import subprocess
from pathlib import Path

from attrs import frozen

from tests.functional.processes import require

_SOURCE = Path(__file__).with_suffix(".c")

#: What its `struct control` is.
_CONTROL = struct.Struct("=5q")

#: The last of the calls when there is no end of failing.
_ALWAYS = 2**62

_NEVER = 0

#: No error: the calls are logged.
_NONE = 0

_BEFORE, _AFTER = 1, 2


@frozen
class Operation:
    """A call that was made below the folders, or failed there; or the start of a program."""

    number: int
    call: str
    #: The numbers of the errors that can come of it.
    errors: frozenset[int]
    #: Of a program that was started: its arguments.
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
    """Compile the library that makes calls fail; skips the test where there is no compiler."""
    require("gcc")
    library = folder / "faults.so"
    options = ("-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror")
    subprocess.run(["gcc", *options, "-o", library, _SOURCE, "-ldl"], check=True, timeout=60)
    return library


class Faults:
    """What fails of a program, and of one that goes on where it ended."""

    def __init__(self, library: Path, folder: Path, below: list[Path]) -> None:
        """
        Let nothing fail yet.

        :param folder: for files of its own.
        :param below: the folders whose calls count.
        """
        control = folder / "faults.control"
        control.write_bytes(bytes(_CONTROL.size))
        self._log = folder / "faults.log"
        with control.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), _CONTROL.size)
        #: What the program has to find in its environment.
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAULT_DIRS": ":".join(map(str, below)),
            "FAULT_CONTROL": str(control),
            "FAULT_LOG": str(self._log),
        }

    def fail(self, error: int, number: int, lasting: bool = False) -> None:
        """Let the so-manyth call fail, of those of which that can come; or all from it on."""
        last = _ALWAYS if lasting else number
        self._control[:] = _CONTROL.pack(error, number, last, 0, 0)

    def kill(self, number: int, after: bool) -> None:
        """
        Kill the program right before the so-manyth step from now on, or right after it.

        A step is a call that changes files, or starts a program; of these all are logged.
        """
        when = _AFTER if after else _BEFORE
        self._control[:] = _CONTROL.pack(_NONE, number, number, 0, when)

    def end(self) -> None:
        """Let nothing fail any more."""
        self._control[:] = _CONTROL.pack(errno.EIO, _NEVER, _NEVER, 0, 0)

    @property
    def count(self) -> int:
        """How many calls have counted since it was last said what is to fail."""
        count: int = _CONTROL.unpack(self._control[:])[3]
        return count

    @property
    def operations(self) -> list[Operation]:
        """The calls that failed, or all while none was to, or while the program is to be killed."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [Operation.parse(line) for line in lines]
