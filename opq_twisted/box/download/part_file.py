"""The part of a download that is on the disk, and what of it is sure."""

import json
import os
import stat
from pathlib import Path

import cattrs
from attrs import evolve, frozen
from twisted.internet.defer import Deferred

from opq_twisted.box.download.verify import Content, InThread
from opq_twisted.common import files

#: Bytes after which what was written is to be brought to the disk.
SYNC_EVERY = 300_000

#: Bytes: never are more written that are not known to be on the disk.
UNSURE = 375_000

_MAX_RECORD = 64 * 1024


@frozen
class _Record:
    """What a part is a part of."""

    url: str
    content: Content
    #: The server's strong validator; None when it has none.
    etag: str | None
    #: Bytes that were on the disk when the last attempt ended in good order.
    synced: int = 0
    #: Whether it has bytes of several answers, and only the hashes can tell whether they fit.
    joined: bool = False

    def may_continue(self, url: str, expected: Content) -> bool:
        if expected.size not in (None, self.content.size):
            return False
        if expected.hashes:
            # Wherever the rest comes from, the hashes tell.
            return self.content.hashes == expected.hashes
        return self.etag is not None and self.url == url


def record_path(path: Path) -> Path:
    """Where it is written what a part is a part of."""
    return path.with_name(f"{path.name}.json")


class Part:
    """
    A file that grows, and can go on growing after a power cut.

    After a power cut a file may end in zeros, or worse: its length is on the disk before its bytes
    are. Writing down how far they are would cost as much again as bringing them there. So never
    more than `UNSURE` bytes are written ahead of what the disk has confirmed. Whatever length is
    found later, and it is at most what was written: without its last `UNSURE` bytes all of it was
    confirmed. What is lost is at most these and those that never got to the disk.
    Only an attempt that ends in good order writes down how far it came.
    """

    def __init__(self, path: Path, url: str, expected: Content, in_thread: InThread) -> None:
        self._path = path
        self._url = url
        self._expected = expected
        self._in_thread = in_thread
        self._fd: int | None = None
        self._forget()

    def _forget(self) -> None:
        self._record = _Record(self._url, self._expected, None)
        #: Bytes that are here.
        self.size = 0
        self._synced = 0
        self._asked = 0

    @property
    def content(self) -> Content:
        """What the whole file is promised to be, as far as is known."""
        return self._record.content

    @property
    def missing(self) -> int | None:
        """Bytes; None while nobody knows."""
        return None if self.content.size is None else self.content.size - self.size

    @property
    def etag(self) -> str | None:
        """The strong validator of what this is a part of."""
        return self._record.etag

    @property
    def can_continue(self) -> bool:
        """Whether the rest may be asked for: it is known whether that fits."""
        return self.size > 0 and (self.etag is not None or bool(self._expected.hashes))

    @property
    def sync_due(self) -> bool:
        """Whether so much was written that it is time for `sync`."""
        return self.size - self._asked >= SYNC_EVERY

    def resume(self) -> None:
        """
        Take up what an earlier run left, or remove it when it is a part of something else.

        :raises OSError: when the disk fails.
        """
        record = _read_record(self._path)
        if record is None or not record.may_continue(self._url, self._expected):
            self.drop()
            return
        try:
            self._open(os.O_RDWR)
        except FileNotFoundError:
            self.drop()
            return
        assert self._fd is not None
        status = os.fstat(self._fd)
        found, whole = status.st_size, record.content.size
        if (
            not stat.S_ISREG(status.st_mode)
            or not 0 <= record.synced <= found
            or (whole is not None and found > whole)
        ):
            self.drop()
            return
        size = max(record.synced, found - UNSURE)
        os.ftruncate(self._fd, size)
        # Another server's validator says nothing here.
        self._record = record if record.url == self._url else evolve(record, etag=None)
        self.size = self._synced = self._asked = size

    def begin(self, content: Content, etag: str | None) -> None:
        """
        Begin anew, with a record of what it will be a part of.

        :raises OSError: when the disk fails.
        """
        # A part without a record is none: at no time has it another's.
        self.drop()
        self._open(os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self._write_record(_Record(self._url, content, etag))

    def join(self) -> None:
        """
        Write down that bytes of another answer follow, and that only the hashes tell if they fit.

        :raises OSError: when the disk is full, or fails.
        """
        if not self._record.joined:
            self._write_record(evolve(self._record, joined=True))

    def cut_back(self, size: int) -> None:
        """
        Forget the bytes after the first `size`, which are not of this file.

        :raises OSError: when the disk fails.
        """
        if not size:
            self.drop()
        elif self._fd is not None:
            os.ftruncate(self._fd, size)
            # What a thread is still bringing to the disk counts no more.
            self._record = evolve(self._record)
            self.size = size
            self._synced, self._asked = min(self._synced, size), min(self._asked, size)

    def learn_size(self, size: int) -> None:
        """Take note of a size that nobody had said before."""
        self._record = evolve(self._record, content=evolve(self.content, size=size))

    def write(self, data: bytes) -> None:
        """
        Append.

        :raises OSError: when the disk is full, or fails.
        """
        assert self._fd is not None
        view = memoryview(data)
        while view:
            room = UNSURE - (self.size - self._synced)
            if room <= 0:
                # The sender was asked to pause, and sent all the same.
                files.sync(self._fd, data_only=True)
                self._synced = self.size
                continue
            written = os.write(self._fd, view[:room])
            self.size += written
            view = view[written:]

    def sync(self) -> Deferred[None]:
        """Bring what was written to the disk, in a thread; fails with OSError."""
        assert self._fd is not None
        record, size = self._record, self.size
        self._asked = size

        def note(_: object) -> None:
            if self._record is record:
                self._synced = max(self._synced, size)

        # The thread owns its descriptor: nobody has to wait for it before closing this one.
        return self._in_thread(_sync, os.dup(self._fd)).addCallback(note)

    def close(self) -> None:
        """
        Bring what was written to the disk, and write down how much that is.

        :raises OSError: when the disk is full, or fails.
        """
        if self._fd is None:
            return
        try:
            if self._synced < self.size:
                files.sync(self._fd, data_only=True)
            if self._record.synced != self.size:
                self._write_record(evolve(self._record, synced=self.size))
        finally:
            self._release()

    def drop(self) -> None:
        """
        Remove it, with its record.

        :raises OSError: when the disk fails.
        """
        self._release()
        self._forget()
        remove(self._path)

    def _open(self, flags: int) -> None:
        flags |= os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)

    def _release(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _write_record(self, record: _Record) -> None:
        files.write(record_path(self._path), json.dumps(cattrs.unstructure(record)).encode())
        self._record = record


def _read_record(path: Path) -> _Record | None:
    try:
        with record_path(path).open("rb") as file:
            return cattrs.structure(json.loads(file.read(_MAX_RECORD)), _Record)
    except Exception:
        # Whatever is wrong with it: the download begins anew.
        return None


def is_joined(path: Path) -> bool:
    """Whether a part has bytes of several answers, and only the hashes tell whether they fit."""
    record = _read_record(path)
    return record is not None and record.joined


def remove(path: Path) -> None:
    """
    Remove a part and its record, the record first.

    :raises OSError: when the disk fails.
    """
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
