"""What a file must hold, and whether it does."""

import errno
import hashlib
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from attrs import Factory, frozen
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from opq_twisted.common import files
from opq_twisted.common.errors import DownloadFailed

#: Calls a function with arguments in a thread.
InThread = Callable[..., Deferred[Any]]

_NAMES = {"sha256": "SHA-256", "sha512": "SHA-512"}


@frozen
class Content:
    """What is known, or promised, about the bytes of a file."""

    #: Bytes; None while nobody has said.
    size: int | None = None
    #: In lower-case hexadecimal, by the name that `hashlib` has for the algorithm.
    hashes: Mapping[str, str] = Factory(dict)

    def require_computable(self) -> None:
        """
        Make sure that each hash can be compared in the end.

        :raises DownloadFailed: when this Python does not know an algorithm.
        """
        for name in self.hashes:
            try:
                is_computable = hashlib.new(name).digest_size > 0
            except ValueError:
                is_computable = False
            # SHAKE hashes have no fixed digest size.
            if not is_computable:
                raise DownloadFailed(
                    f"The release has a {name[:40]!r} hash, which this box cannot compute. Update "
                    "it by hand."
                )


def open_file(path: Path) -> io.FileIO:
    """
    Open a file for reading: whatever its name leads to later, this is what is read.

    :raises DownloadFailed: when there is no file, or something else.
    :raises OSError: when the disk fails.
    """
    try:
        return files.open_regular(path, follow_links=False)
    except files.NotRegular:
        raise DownloadFailed(f"{path.name} is not a file. Try again.") from None
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        raise DownloadFailed(f"{path.name} is not there any more. Try again.") from None


async def measure(
    file: BinaryIO, expected: Content, in_thread: InThread = deferToThread
) -> Content:
    """
    Read a file through its open descriptor, whose position does not move.

    :returns: its size, the expected hashes, and its SHA-256 in any case.
    :raises DownloadFailed: when it is not what was expected.
    :raises OSError: when the disk fails.
    """
    expected.require_computable()
    size = os.fstat(file.fileno()).st_size
    if expected.size not in (None, size):
        raise DownloadFailed(f"{size} bytes came instead of {expected.size}. Try again.")
    # A duplicate is the same open file, and the thread's own to close: nobody has to wait for it.
    hashes: dict[str, str] = await in_thread(
        _compute, os.dup(file.fileno()), {"sha256", *expected.hashes}
    )
    for name, value in expected.hashes.items():
        if hashes[name] != value:
            raise DownloadFailed(
                f"What came has another {_NAMES.get(name, name)} than was promised. Try again."
            )
    return Content(size, hashes)


def _compute(fd: int, names: set[str]) -> dict[str, str]:
    try:
        return files.hash_file(fd, names)
    finally:
        os.close(fd)
