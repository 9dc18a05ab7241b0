"""What a file must hold, and whether it does."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from attrs import Factory, frozen
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from opq_twisted.common.errors import DownloadFailed

#: Calls a function with arguments in a thread.
InThread = Callable[..., Deferred[Any]]

_CHUNK = 1024 * 1024

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
            _new_hash(name)


def open_file(path: Path) -> BinaryIO:
    """
    Open a file for reading: whatever its name leads to later, this is what is read.

    :raises DownloadFailed: when there is no file, or something else.
    :raises OSError: when the disk fails.
    """
    try:
        # A FIFO would make us wait.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        raise DownloadFailed(f"{path.name} is not there any more. Try again.") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise DownloadFailed(f"{path.name} is not a file. Try again.")
    return os.fdopen(fd, "rb")


async def measure(
    file: BinaryIO, expected: Content, in_thread: InThread = deferToThread
) -> Content:
    """
    Read a file through its open descriptor, whose position does not move.

    :returns: its size, the expected hashes, and its SHA-256 in any case.
    :raises DownloadFailed: when it is not what was expected.
    :raises OSError: when the disk fails.
    """
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
        computed = {name: _new_hash(name) for name in names}
        offset = 0
        while chunk := os.pread(fd, _CHUNK, offset):
            offset += len(chunk)
            for computing in computed.values():
                computing.update(chunk)
        return {name: computing.hexdigest() for name, computing in computed.items()}
    finally:
        os.close(fd)


def _new_hash(name: str) -> Any:
    try:
        computing = hashlib.new(name)
    except ValueError:
        computing = None
    # Those of any length have none of their own.
    if computing is None or not computing.digest_size:
        raise DownloadFailed(
            f"The release has a {name[:40]!r} hash, which this box cannot compute. Update it by "
            "hand."
        )
    return computing
