"""The unpacker as a process of its own: how it is started, and how it checks a new release."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

from opq_twisted.archive.sizes import RESERVE
from opq_twisted.common.errors import ReleaseFailed

#: Seconds that the unpacker may run: on a box, and for the check of a new release.
TIMEOUT = 1800.0

#: The unpacker's exit codes for `ArchiveRefused` and `NoRoom`; other failures have other codes.
REFUSED = 3
NO_ROOM = 4

#: Only named here: its imports would cost the agent, which starts it, memory.
_MODULE = "opq_twisted.archive.extract.unpack"

_MAX_OUTPUT = 4096


def child_command(version: int, folder: Path | None = None) -> list[str]:
    """
    Return the command line of an unpacker; its standard input must be the archive's file.

    :param folder: the folder to create; None to check the archive and write nothing.
    """
    arguments = [str(version)]
    if folder is not None:
        arguments = [os.fspath(folder), str(version), f"--reserve={RESERVE}"]
    # -P: Python must not import modules from the current folder, which others may write to.
    return [sys.executable, "-P", "-m", _MODULE, *arguments]


def child_environment() -> dict[str, str]:
    """Return the environment of an unpacker: the module path has no relative folders."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if os.path.isabs(path)),
    }


def validate(archive: BinaryIO, version: int) -> None:
    """
    Make sure that boxes would unpack an archive.

    :param archive: an open file; the child process moves its position.
    :raises ReleaseFailed: if boxes would refuse the archive, or the check itself fails.
    """
    with tempfile.TemporaryFile() as stderr:
        try:
            child = subprocess.run(
                child_command(version),
                stdin=archive,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=child_environment(),
                timeout=TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            raise ReleaseFailed(
                f"Release {version} would take a box more than {TIMEOUT / 60:.0f} minutes to "
                "unpack: build a smaller one."
            ) from None
        stderr.seek(0)
        printed = stderr.read(_MAX_OUTPUT).decode("utf-8", "replace").strip()
        reason = printed.rpartition("\n")[2]
    if child.returncode == REFUSED:
        raise ReleaseFailed(f"Boxes would refuse this release: {reason}")
    if child.returncode != 0:
        raise ReleaseFailed(
            f"Release {version} could not be checked: {reason or f'status {child.returncode}.'}"
        )
