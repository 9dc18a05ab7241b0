"""Decompresses a bzip2 file, with lbzip2 on all cores if it is installed."""

import bz2
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from subprocess import PIPE, Popen
from typing import BinaryIO

from opq_twisted.archive.bzip2 import END_MARK, STREAM_HEADERS
from opq_twisted.common.errors import ArchiveRefused

#: Opens a stream of decompressed bytes from a bzip2 file at its beginning. The end of the stream
#: raises `ArchiveRefused` unless the file is complete.
Decompress = Callable[[BinaryIO], AbstractContextManager[BinaryIO]]

#: The largest update, of 2 GiB, has fewer streams. Each stream of pbzip2 has at least 100 kB. Any
#: three streams of the builder in a row have at least 128 KiB, because it makes at most two short
#: ones before a large file. There are two exceptions: 100,000 small files may make 10,000 short
#: streams, and each component may end with one. So thousands of components fit.
MAX_STREAMS = 1 << 16

_READ = 1 << 20
_READ_COMPRESSED = 64 << 10
#: More threads need more address space than the unpacker allows itself (four need up to 0.5 GiB).
_MAX_THREADS = 4
_DAMAGED = "its bzip2 data is damaged or cut off"
_END_MARK_BITS = 48
_CHECKSUM_BITS = 32


def fastest(archive: BinaryIO) -> AbstractContextManager[BinaryIO]:
    """
    Decompress with lbzip2 if there is one, otherwise with the standard library.

    lbzip2 ignores garbage after a complete stream, and everything after the garbage. The standard
    library refuses it, and so decompresses each file that may contain some.

    :raises ArchiveRefused: if the file has more than `MAX_STREAMS` streams.
    """
    if shutil.which("lbzip2") and streams_join(archive.fileno()):
        return with_lbzip2(archive)
    return with_stdlib(archive)


def streams_join(fd: int) -> bool:
    """
    Whether each stream of a bzip2 file is followed by another stream, or by the end of the file.

    The mark at the end of a stream is searched at each bit offset, which takes a second for 250 MB.
    In one of 300,000 archives of 100 MB, compressed data looks like the mark: then the result is
    wrongly False.

    :raises ArchiveRefused: if the file has more than `MAX_STREAMS` streams.
    :raises OSError: if the file cannot be read.
    """
    size = os.fstat(fd).st_size
    for number, end in enumerate(_stream_ends(fd, size), 1):
        _check_number_of_streams(number)
        if end != size and not os.pread(fd, 4, end).startswith(STREAM_HEADERS):
            return False
    return True


def _stream_ends(fd: int, size: int) -> Iterator[int]:
    """Yield the offset of the first byte after each end mark and its checksum."""
    for start in range(0, size, _READ):
        # A mark that begins with the last bit of a chunk ends six bytes later.
        chunk = os.pread(fd, _READ + 6, start)
        for shift in range(8):
            for index in _marks(chunk, shift):
                bits = shift + _END_MARK_BITS + _CHECKSUM_BITS
                yield start + index + -(-bits // 8)


def _marks(chunk: bytes, shift: int) -> Iterator[int]:
    """Yield the index of each byte in which an end mark begins, after `shift` other bits."""
    # With each shift, five bytes of the mark lie on byte boundaries.
    whole = (END_MARK << (8 - shift)).to_bytes(7, "big")[1:6]
    found = chunk.find(whole, 1, _READ + 5)
    while found != -1:
        window = int.from_bytes(chunk[found - 1 : found + 6].ljust(7, b"\0"), "big")
        if (window >> (8 - shift)) & ((1 << _END_MARK_BITS) - 1) == END_MARK:
            yield found - 1
        found = chunk.find(whole, found + 1, _READ + 5)


def _check_number_of_streams(number: int) -> None:
    if number > MAX_STREAMS:
        raise ArchiveRefused(f"it consists of more than {MAX_STREAMS} bzip2 streams")


@contextmanager
def with_lbzip2(archive: BinaryIO) -> Iterator[BinaryIO]:
    """
    Decompress a file in a child process, which ends with the context; `streams_join` must be True.

    :raises OSError: from the reads, if lbzip2 failed for a reason other than the archive.
    """
    command = ["lbzip2", "-dc", "-n", str(min(_MAX_THREADS, os.cpu_count() or 1))]
    # A file and not a pipe: nobody reads a pipe meanwhile, and a full one would block the child.
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
    """The output of lbzip2; it is complete only if the exit status is 0."""

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
        self._streams = 1

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
                self._streams += 1
                _check_number_of_streams(self._streams)
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
