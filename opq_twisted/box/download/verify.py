"""Verifies the size and the hashes of a file."""

import errno
import hashlib
import io
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from attrs import Factory, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.threads import deferToThread

from opq_twisted.common import files
from opq_twisted.common.errors import ArchiveLost, WrongContent

#: Calls a function with its arguments in a thread, such as `deferToThread`.
InThread = Callable[..., Deferred[Any]]

_HASH_NAMES = {"sha256": "SHA-256", "sha512": "SHA-512"}


@frozen
class Content:
    """The promised or actual size and hashes of a file."""

    #: Bytes; None if unknown.
    size: int | None = None
    #: In lower-case hexadecimal, keyed by the algorithm's name in `hashlib`.
    hashes: Mapping[str, str] = Factory(dict)

    def require_computable(self) -> None:
        """Raise WrongContent if this Python cannot compute one of the hashes."""
        for name in self.hashes:
            try:
                is_computable = hashlib.new(name).digest_size > 0
            except ValueError:
                is_computable = False
            # SHAKE hashes have no fixed digest size.
            if not is_computable:
                raise WrongContent(
                    f"The release has a {name[:40]!r} hash, which this box cannot compute. Update "
                    "it by hand."
                )


def open_file(path: Path) -> io.FileIO:
    """
    Open a downloaded file, so that its name can change while it is read.

    :raises ArchiveLost: if there is no regular file of this name.
    :raises OSError: if the disk fails.
    """
    try:
        return files.open_regular(path, follow_links=False)
    except files.NotRegular:
        raise ArchiveLost(f"{path.name} is not a file. Try again.") from None
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        raise ArchiveLost(f"{path.name} is not there any more. Try again.") from None


async def verify(
    file: BinaryIO,
    expected: Content,
    in_thread: InThread = deferToThread,
    each_chunk: Callable[[bytes], object] = lambda chunk: None,
) -> Content:
    """
    Read a file, and compare it with the expected size and hashes.

    The position of the file does not move.

    :param each_chunk: is called with all bytes in order, in the thread.
    :returns: its size, the expected hashes, and in any case its SHA-256.
    :raises WrongContent: if it differs.
    :raises OSError: if the disk fails.
    """
    expected.require_computable()
    size = os.fstat(file.fileno()).st_size
    if expected.size not in (None, size):
        raise WrongContent(f"{size} bytes arrived instead of {expected.size}. Try again.")
    # The thread has a descriptor of its own, so the caller can close the file at any time.
    hashes: dict[str, str] = await read_in_thread(
        in_thread, _compute, os.dup(file.fileno()), {"sha256", *expected.hashes}, each_chunk
    )
    for name, value in expected.hashes.items():
        if hashes[name] != value:
            raise WrongContent(
                f"The file has another {_HASH_NAMES.get(name, name)} than promised. Try again."
            )
    return Content(size, hashes)


def _compute(
    fd: int,
    names: set[str],
    each_chunk: Callable[[bytes], object],
    check_cancelled: Callable[[], object],
) -> dict[str, str]:
    def add(chunk: bytes) -> None:
        check_cancelled()
        each_chunk(chunk)

    try:
        return files.hash_file(fd, names, each_chunk=add)
    finally:
        os.close(fd)


async def read_in_thread(
    in_thread: InThread, function: Callable[..., Any], *arguments: object
) -> Any:
    """
    Call a function that reads a large file in a thread, which ends soon if this is cancelled.

    Otherwise the agent would not stop until the whole file is read.

    :param function: its last argument is a function that it calls now and then, and that raises
        `CancelledError` then.
    """
    is_over = threading.Event()

    def check_cancelled() -> None:
        if is_over.is_set():
            raise CancelledError

    try:
        return await in_thread(function, *arguments, check_cancelled)
    finally:
        is_over.set()
