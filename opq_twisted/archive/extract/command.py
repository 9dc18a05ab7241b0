"""How the unpacker is started: a process of its own, which finds no modules but this project's."""

import os
import sys
from pathlib import Path

from opq_twisted.archive.extract import unpack


def child_command(version: int, folder: Path | None = None) -> list[str]:
    """
    Give what unpacks its standard input, a file.

    :param folder: one that is not there yet; None to judge the archive, and unpack nothing.
    """
    arguments = [str(version)]
    if folder is not None:
        arguments = [os.fspath(folder), str(version), f"--reserve={unpack.RESERVE}"]
    # -P: whoever may write in the current folder must not be this process's user.
    return [sys.executable, "-P", "-m", unpack.__name__, *arguments]


def child_environment() -> dict[str, str]:
    """Give the child the modules of this process, those of the current folder excepted."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if os.path.isabs(path)),
    }
