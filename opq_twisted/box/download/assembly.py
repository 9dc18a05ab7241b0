"""Finds the pieces of a new archive in the last good archive, and reads them from there."""

import contextlib
import hashlib
import os
from collections.abc import Callable
from typing import BinaryIO

from attrs import define
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from opq_twisted.archive.delta import MIN_SIZE, Copy, Delta, compare
from opq_twisted.archive.pieces import MAX_INDEX, Index, NoIndex, read_index
from opq_twisted.archive.sizes import MAX_ARCHIVE
from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.box.download.verify import Content, InThread, read_in_thread
from opq_twisted.box.network.update_server import UpdateServerClient
from opq_twisted.common.errors import ServerFailed

#: Seconds for which a box waits for the index. The server computes it when it is asked first.
_TIMEOUT = 60.0

#: After so many pieces in the last good archive that have rotted, the rest is downloaded.
_MAX_ROTTEN = 5

_log = Logger()


@define
class Assembly:
    """
    The open last good archive, and the delta by which `Transfer` assembles a new one.

    Neither is trusted: each piece is hashed when it is read, and the whole archive is verified in
    the end. The delta changes when pieces have rotted, or the server does not send ranges.
    """

    #: The promised size and hashes of the new archive.
    content: Content
    delta: Delta
    _source: BinaryIO
    _in_thread: InThread
    #: Pieces that have rotted so far.
    _rotten: int = 0

    @property
    def is_intact(self) -> bool:
        """Whether all pieces that were read so far were as they should be."""
        return not self._rotten

    async def read(self, copy: Copy) -> bytes | None:
        """Read a piece of the last good archive; None if it has changed, to be fetched."""
        data: bytes | None = None
        with contextlib.suppress(OSError):
            # The thread has a descriptor of its own, so this one can be closed at any time.
            data = await self._in_thread(_read, os.dup(self._source.fileno()), copy)
        if data is None:
            self._rotten += 1
            self.delta = self.delta.without(copy)
            if self._rotten == _MAX_ROTTEN:
                self.abandon(copy.start)
        return data

    def abandon(self, offset: int) -> None:
        """Fetch everything from this offset of the new archive on."""
        self.delta = self.delta.whole_from(offset)

    def close(self) -> None:
        """Close the last good archive."""
        _close(self._source)


async def prepare(
    clock: IReactorTime,
    server: UpdateServerClient,
    archives: ArchiveStore,
    url: str,
    expected: Content,
) -> Assembly | None:
    """
    Find out which pieces of a new archive the last good archive has.

    :param url: of the new archive.
    :param expected: its signed size and hashes, as far as there are any.
    :returns: None if the archive must be downloaded whole: there is no last good archive, the
        server has no index of the new one, or too little is here.
    """
    try:
        last_good = archives.open_last_good()
    except OSError as error:
        _log.warn("The last good archive cannot be read: {error}", error=error)
        return None
    if last_good is None:
        return None
    source, old = last_good
    assembly = None
    try:
        index = await _request_index(clock, server, f"{url}.pieces", expected)
        if index is not None:
            assembly = await _compare(index, expected, source, old, archives.in_thread)
    finally:
        if assembly is None:
            _close(source)
    return assembly


async def _request_index(
    clock: IReactorTime, server: UpdateServerClient, url: str, expected: Content
) -> Index | None:
    """Request the index of the new archive; None if there is none, or it is of another archive."""
    if expected.size is not None and expected.size < MIN_SIZE:
        return None
    try:
        data = await Deferred.fromCoroutine(_read_when_ready(clock, server, url)).addTimeout(
            _TIMEOUT, clock
        )
        index = None if data is None else Index.from_json(data)
    except (ServerFailed, NoIndex, TimeoutError) as error:
        _log.info("The archive is downloaded whole: {error}", error=error)
        return None
    return index if index and _is_of(index, expected) else None


def _is_of(index: Index, expected: Content) -> bool:
    """Whether an index is of the expected archive, and its size permits a delta."""
    return (
        MIN_SIZE <= index.size <= MAX_ARCHIVE
        and expected.size in (None, index.size)
        and expected.hashes.get("sha256") in (None, index.sha256)
    )


async def _read_when_ready(
    clock: IReactorTime, server: UpdateServerClient, url: str
) -> bytes | None:
    while True:
        try:
            return await server.read(url, MAX_INDEX)
        except ServerFailed as error:
            # The server is still computing the index.
            if error.retry_after is None or error.retry_after >= _TIMEOUT:
                raise
            await deferLater(clock, max(1.0, error.retry_after))


async def _compare(
    index: Index, expected: Content, source: BinaryIO, old: Index | None, in_thread: InThread
) -> Assembly | None:
    """Compare the archives; `old` is the index of the last good one, None to read it for that."""
    try:
        if old is None:
            old = await read_in_thread(in_thread, _read_index, os.dup(source.fileno()))
    except (NoIndex, OSError) as error:
        _log.warn("The last good archive cannot be used for a delta: {error}", error=error)
        return None
    delta = compare(index, old)
    if not delta.pays:
        return None
    # Without signed hashes the box trusts the server, and the index is as good as its Repr-Digest.
    content = Content(index.size, expected.hashes or {"sha256": index.sha256})
    return Assembly(content, delta, source, in_thread)


def _read_index(fd: int, check_cancelled: Callable[[], object]) -> Index:
    try:
        return read_index(fd, os.fstat(fd).st_size, lambda _: check_cancelled())
    finally:
        os.close(fd)


def _read(fd: int, copy: Copy) -> bytes | None:
    """Read a piece; None if it is not what it was."""
    try:
        data = os.pread(fd, copy.piece.length, copy.source)
    finally:
        os.close(fd)
    return data if hashlib.sha256(data).digest() == copy.piece.digest else None


def _close(source: BinaryIO) -> None:
    # A disk that fails here does no harm to an update: what was read is verified.
    with contextlib.suppress(OSError):
        source.close()
