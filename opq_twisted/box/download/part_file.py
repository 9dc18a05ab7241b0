"""The file of an unfinished download, which survives power cuts."""

import json
import os
import stat
from pathlib import Path

import cattrs
from attrs import evolve, frozen
from twisted.internet.defer import Deferred

from opq_twisted.box.download.verify import Content, InThread
from opq_twisted.common import files

#: Bytes after which the written data should be synced to the disk.
SYNC_EVERY = 300_000

#: The maximum number of written bytes that are not yet synced.
MAX_UNSYNCED = 375_000

_MAX_RECORD = 64 * 1024


@frozen
class _Record:
    """The description of a part file, stored beside it as JSON."""

    url: str
    #: The size and the hashes of the complete file.
    content: Content
    #: The server's strong validator; None if it sent none.
    etag: str | None
    #: Bytes on the disk when the last attempt ended in an orderly way.
    synced: int = 0
    #: Whether the bytes come from several sources, so that only the hashes prove that they fit.
    joined: bool = False
    #: Of the synced bytes, those that were copied from another archive.
    copied: int = 0

    def may_continue(self, url: str, expected: Content) -> bool:
        if expected.size not in (None, self.content.size):
            return False
        if expected.hashes:
            # The rest may come from any server: the hashes prove that it fits.
            return self.content.hashes == expected.hashes
        return self.etag is not None and self.url == url


def record_path(path: Path) -> Path:
    """Return the path of the record that describes a part file."""
    return path.with_name(f"{path.name}.json")


class Part:
    """
    A part file that can be continued after a power cut.

    After a power cut, a file may end in zeros or garbage, because its length reaches the disk
    before its bytes do. To record the synced length after each sync would double the cost. Instead,
    at most `MAX_UNSYNCED` bytes are ever written beyond the last sync. So whatever length is found
    after a power cut, all but the last `MAX_UNSYNCED` bytes were synced, and only those are lost.
    The synced length is recorded only when an attempt ends in an orderly way.

    All methods raise OSError if the disk is full or fails.
    """

    def __init__(self, path: Path, url: str, expected: Content, in_thread: InThread) -> None:
        self._path = path
        self._url = url
        self._expected = expected
        self._in_thread = in_thread
        self._fd: int | None = None
        self._reset()

    def _reset(self) -> None:
        self._record = _Record(self._url, self._expected, None)
        #: Bytes written, and how many of them were copied from another archive.
        self.size = self.copied = 0
        #: Bytes that a finished sync, and any sync, covers.
        self._synced = self._sync_started = 0

    @property
    def folder(self) -> Path:
        """The folder in which it is."""
        return self._path.parent

    @property
    def content(self) -> Content:
        """The promised size and hashes of the complete file, as far as known."""
        return self._record.content

    @property
    def missing(self) -> int | None:
        """Bytes that remain to be downloaded; None while the size is unknown."""
        return None if self.content.size is None else self.content.size - self.size

    @property
    def etag(self) -> str | None:
        """The strong validator of the file that this is a part of."""
        return self._record.etag

    @property
    def can_continue(self) -> bool:
        """Whether the rest can be requested: a validator or hashes prove that it fits."""
        return self.size > 0 and (self.etag is not None or bool(self._expected.hashes))

    @property
    def sync_due(self) -> bool:
        """Whether `SYNC_EVERY` bytes were written since the last call of `sync`."""
        return self.size - self._sync_started >= SYNC_EVERY

    def resume(self) -> None:
        """Open the part file of an earlier run, or remove it if it belongs to another file."""
        record = _read_record(self._path)
        if record is None or not record.may_continue(self._url, self._expected):
            self.remove()
            return
        try:
            self._open(os.O_RDWR)
        except FileNotFoundError:
            self.remove()
            return
        assert self._fd is not None
        status = os.fstat(self._fd)
        found, whole = status.st_size, record.content.size
        if (
            not stat.S_ISREG(status.st_mode)
            or not 0 <= record.synced <= found
            or (whole is not None and found > whole)
        ):
            self.remove()
            return
        size = max(record.synced, found - MAX_UNSYNCED)
        os.ftruncate(self._fd, size)
        # A validator is only valid for the URL that it came from.
        self._record = record if record.url == self._url else evolve(record, etag=None)
        self.size = self._synced = self._sync_started = size
        self.copied = min(max(record.copied, 0), size)

    def begin(self, content: Content, etag: str | None) -> None:
        """Create an empty part file and its record."""
        # Remove both first: a part file must never have the record of another.
        self.remove()
        self._open(os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self._write_record(_Record(self._url, content, etag))

    def join(self) -> None:
        """Record that bytes of another source follow: only the hashes prove that they fit."""
        if not self._record.joined:
            self._write_record(evolve(self._record, joined=True))

    def truncate(self, size: int) -> None:
        """Remove the bytes after the first `size`, which do not belong to this file."""
        if not size:
            self.remove()
        elif self._fd is not None:
            os.ftruncate(self._fd, size)
            # A new record: the result of a sync that still runs no longer counts.
            self._record = evolve(self._record)
            self.size = size
            self._synced = min(self._synced, size)
            self._sync_started = min(self._sync_started, size)

    def set_total(self, size: int) -> None:
        """Set the size of the complete file, unknown so far."""
        self._record = evolve(self._record, content=evolve(self.content, size=size))

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        assert self._fd is not None
        view = memoryview(data)
        while view:
            room = MAX_UNSYNCED - (self.size - self._synced)
            if room <= 0:
                # The sender was paused, but more data was already on its way.
                files.sync(self._fd, data_only=True)
                self._synced = self.size
                continue
            written = os.write(self._fd, view[:room])
            self.size += written
            view = view[written:]

    def sync(self) -> Deferred[None]:
        """Sync the written bytes to the disk in a thread; fails with OSError."""
        assert self._fd is not None
        record, size = self._record, self.size
        self._sync_started = size

        def finished(_: object) -> None:
            if self._record is record:
                self._synced = max(self._synced, size)

        # The thread has a descriptor of its own, so this one can be closed at any time.
        return self._in_thread(_sync, os.dup(self._fd)).addCallback(finished)

    def close(self) -> None:
        """Sync the written bytes to the disk, and record their number."""
        if self._fd is None:
            return
        try:
            if self._synced < self.size:
                files.sync(self._fd, data_only=True)
            if self._record.synced != self.size:
                self._write_record(evolve(self._record, synced=self.size, copied=self.copied))
        finally:
            self._close_fd()

    def remove(self) -> None:
        """Remove the file and its record."""
        self._close_fd()
        self._reset()
        remove(self._path)

    def _open(self, flags: int) -> None:
        flags |= os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)

    def _close_fd(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _write_record(self, record: _Record) -> None:
        files.write(record_path(self._path), json.dumps(cattrs.unstructure(record)).encode())
        self._record = record


def _read_record(path: Path) -> _Record | None:
    try:
        record = files.read(record_path(path), _MAX_RECORD)
        return cattrs.structure(json.loads(record), _Record)
    except Exception:
        # Any damage has the same consequence: the download starts from the beginning.
        return None


def is_joined(path: Path) -> bool:
    """Whether a part file has bytes of several sources, which may not belong together."""
    record = _read_record(path)
    return record is not None and record.joined


def remove(path: Path) -> None:
    """Remove a part file and its record, the record first; raises OSError if the disk fails."""
    found = [item for item in (record_path(path), path) if os.path.lexists(item)]
    for item in found:
        item.unlink()
    if found:
        files.sync_folder(path.parent)


def _sync(fd: int) -> None:
    try:
        files.sync(fd, data_only=True)
    finally:
        os.close(fd)
