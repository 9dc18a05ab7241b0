"""Read a bzip2 file as the bytes it holds, with lbzip2 on all cores where the machine has it."""

import bz2
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from subprocess import PIPE, Popen
from typing import BinaryIO

from opq_twisted.errors import ArchiveRefused

#: Makes a stream of decompressed bytes from a bzip2 file that stands at its beginning. Reading to
#: its end raises `ArchiveRefused` unless the file was whole.
Decompress = Callable[[BinaryIO], AbstractContextManager[BinaryIO]]

_READ = 1 << 20
_READ_COMPRESSED = 64 << 10
#: More threads need more address space than the unpacker allows itself (four need up to 0.5 GiB).
_MAX_THREADS = 4
_DAMAGED = "its bzip2 data is damaged or cut off"


def fastest(archive: BinaryIO) -> AbstractContextManager[BinaryIO]:
    """Decompress with lbzip2 if there is one, otherwise with the standard library."""
    return with_lbzip2(archive) if shutil.which("lbzip2") else with_stdlib(archive)


@contextmanager
def with_lbzip2(archive: BinaryIO) -> Iterator[BinaryIO]:
    """
    Decompress in a child process, which is gone when the context is left.

    lbzip2 ignores garbage behind a whole stream, and whatever follows the garbage.

    :raises OSError: from the reads, when lbzip2 failed for a reason that is not the archive.
    """
    command = ["lbzip2", "-dc", "-n", str(min(_MAX_THREADS, os.cpu_count() or 1))]
    # A file and not a pipe: a child that waits until its complaints are read would never end.
    with (
        open(os.memfd_create("complaints"), "w+b") as complaints,
        Popen(command, stdin=archive, stdout=PIPE, stderr=complaints, bufsize=0) as child,
    ):
        try:
            yield io.BufferedReader(_ChildOutput(child, complaints), _READ)
        finally:
            child.kill()


@contextmanager
def with_stdlib(archive: BinaryIO) -> Iterator[BinaryIO]:
    """Decompress in this process."""
    yield io.BufferedReader(_Bunzip2(archive), _READ)


class _ChildOutput(io.RawIOBase):
    """What lbzip2 writes; its end is the end only if lbzip2 says so."""

    def __init__(self, child: Popen[bytes], complaints: BinaryIO) -> None:
        self._child = child
        self._complaints = complaints

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        assert isinstance(self._child.stdout, io.FileIO)
        length = self._child.stdout.readinto(buffer)
        if length == 0 and self._child.wait() != 0:
            raise self._failure()
        return length

    def _failure(self) -> Exception:
        self._complaints.seek(0)
        complaint = self._complaints.read(200)
        if b"compressed data error" in complaint or b"not a valid bzip2 file" in complaint:
            return ArchiveRefused(_DAMAGED)
        return OSError(f"lbzip2 ended with status {self._child.returncode} and {complaint!r}")


class _Bunzip2(io.RawIOBase):
    """A bzip2 file of one or more streams, decompressed in bounded memory."""

    def __init__(self, archive: BinaryIO) -> None:
        self._archive = archive
        self._decompressor = bz2.BZ2Decompressor()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._decompress(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _decompress(self, size: int) -> bytes:
        while True:
            compressed = b""
            if self._decompressor.eof:
                compressed = self._decompressor.unused_data or self._archive.read(_READ_COMPRESSED)
                if not compressed:
                    return b""
                self._decompressor = bz2.BZ2Decompressor()
            elif self._decompressor.needs_input:
                compressed = self._archive.read(_READ_COMPRESSED)
                if not compressed:
                    raise ArchiveRefused(_DAMAGED)
            if data := self._feed(compressed, size):
                return data

    def _feed(self, compressed: bytes, size: int) -> bytes:
        try:
            return self._decompressor.decompress(compressed, size)
        except OSError as error:
            raise ArchiveRefused(_DAMAGED) from error
