"""Judge an archive as a box does, in the process that a box would unpack it in."""

import subprocess
import tempfile
from typing import BinaryIO

from opq_twisted.archive.extract import unpack
from opq_twisted.archive.extract.command import child_command, child_environment
from opq_twisted.common.errors import ReleaseFailed

#: Seconds that it may take; as long as on a box.
_TIMEOUT = 1800.0
_LONGEST_SENTENCE = 4096


def judge(archive: BinaryIO, version: int) -> None:
    """
    Make sure that boxes would unpack an archive.

    :param archive: an open file; its position afterwards is anywhere.
    :raises ReleaseFailed: when they would not, or when that cannot be found out.
    """
    with tempfile.TemporaryFile() as said:
        try:
            ended = subprocess.run(
                child_command(version),
                stdin=archive,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=child_environment(),
                timeout=_TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            raise ReleaseFailed(
                f"Release {version} would take a box more than {_TIMEOUT / 60:.0f} minutes to "
                "unpack: build a smaller one."
            ) from None
        said.seek(0)
        reason = said.read(_LONGEST_SENTENCE).decode("utf-8", "replace").strip().rpartition("\n")[2]
    if ended.returncode == unpack.REFUSED:
        raise ReleaseFailed(f"Boxes would refuse this release: {reason}")
    if ended.returncode != 0:
        raise ReleaseFailed(
            f"Release {version} could not be judged: {reason or f'status {ended.returncode}.'}"
        )
