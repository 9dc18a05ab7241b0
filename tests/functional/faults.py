"""Lets chosen file operations of a program fail, from outside of it."""

import errno
import mmap
import struct
import subprocess
from pathlib import Path

from attrs import frozen

from tests.functional.processes import require

_SOURCE = Path(__file__).with_suffix(".c")

#: What its `struct control` is.
_CONTROL = struct.Struct("=4q")

#: The last of the calls when there is no end of failing.
_ALWAYS = 2**62

_NEVER = 0


@frozen
class Operation:
    """A call that was made below the folders, or failed there."""

    call: str
    #: The numbers of the errors that can come of it.
    errors: frozenset[int]
    path: Path

    @classmethod
    def parse(cls, line: str) -> "Operation":
        """Read a line of the log."""
        _, call, errors, path = line.split(" ", 3)
        names = errors.removesuffix(",").split(",")
        return cls(call, frozenset(getattr(errno, name) for name in names), Path(path))


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
        self._control[:] = _CONTROL.pack(error, number, last, 0)

    def end(self) -> None:
        """Let nothing fail any more."""
        self._control[:] = _CONTROL.pack(errno.EIO, _NEVER, _NEVER, 0)

    @property
    def operations(self) -> list[Operation]:
        """The calls that failed, or all while none was to."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [Operation.parse(line) for line in lines]
