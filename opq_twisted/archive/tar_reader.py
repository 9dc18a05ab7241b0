"""Reads a tar stream strictly: it must be complete, and hold only regular files and folders."""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from opq_twisted.common.errors import ArchiveRefused

_BLOCK = 512
_CHUNK = 1 << 20
_MAX_EXTENSION = 64 << 10
#: tar fills its last record, usually of 10 KiB, with zeros.
_MAX_PADDING = 1 << 20

_LONG_NAME, _PAX, _PAX_GLOBAL = b"L", b"x", b"g"
_EXTENSIONS = (_LONG_NAME, _PAX, _PAX_GLOBAL)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)
_REFUSED_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.CONTTYPE: "a contiguous file",
    b"D": "a GNU directory dump",
    b"K": "a GNU long link name",
    b"M": "a part of a multi-volume archive",
    b"S": "a sparse file",
    b"V": "a volume label",
}
_PAX_RECORD = re.compile(rb"([1-9][0-9]{0,5}) ([^=]+)=")
_PAX_SIZE = re.compile(rb"[0-9]{1,18}")
_PAX_CHARSET = b"ISO-IR 10646 2000 UTF-8"


def quoted(name: str | bytes) -> str:
    """Return a name from an archive in a form that is short, printable and safe in a log."""
    text = repr(name[:80])
    return text if len(name) <= 80 else f"{text}..."


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file or a folder; its name has not been checked yet."""

    name: str
    size: int
    is_folder: bool
    is_executable: bool


@dataclass(slots=True)
class _Extension:
    """The content of the extended headers before a member."""

    kinds: bytes = b""
    name: str | None = None
    size: int | None = None

    def add(self, kind: bytes, data: bytes) -> None:
        if kind in self.kinds:
            raise ArchiveRefused(f"it has two extended headers of kind {kind!r} for one member")
        self.kinds += kind
        if kind == _LONG_NAME:
            self._set_name(data.removesuffix(b"\0"))
            return
        for key, value in _pax_records(data):
            self._add_record(kind, key, value)

    def _add_record(self, kind: bytes, key: bytes, value: bytes) -> None:
        if key == b"hdrcharset" and value == _PAX_CHARSET:
            return
        if key in (b"hdrcharset", b"linkpath") or key.startswith(b"GNU."):
            raise ArchiveRefused(
                f"it has an extended header with {quoted(key)}, which no update needs"
            )
        if key not in (b"path", b"size"):
            return
        if kind == _PAX_GLOBAL:
            raise ArchiveRefused(f"it has a global header with {quoted(key)}")
        if key == b"path":
            self._set_name(value)
        else:
            self._set_size(value)

    def _set_name(self, name: bytes) -> None:
        if self.name is not None:
            raise ArchiveRefused(f"it names {quoted(self.name)} a second time: {quoted(name)}")
        self.name = _text(name)

    def _set_size(self, size: bytes) -> None:
        if self.size is not None or not _PAX_SIZE.fullmatch(size):
            raise ArchiveRefused(f"it has an extended header with the size {quoted(size)}")
        self.size = int(size)


class TarStream:
    """
    Iterates over the members of a tar stream; `content` yields the bytes of the latest one.

    The standard library decodes each header, but does not read the stream: `TarFile.next` takes a
    damaged header for the end of the archive, and reads extended headers of any length into memory.

    Both iterations raise `ArchiveRefused` unless the archive consists of regular files and folders,
    in the formats of GNU tar, Python's tarfile and git.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._unread = 0
        #: The number of bytes that have been read from the stream.
        self.offset = 0

    def __iter__(self) -> Iterator[Member]:
        while (member := self._next()) is not None:
            padding = -member.size % _BLOCK
            self._unread = member.size
            yield member
            for _ in self.content():
                pass
            self._read(padding)

    def content(self) -> Iterator[bytes]:
        """Yield the unread rest of the latest member's content in pieces."""
        while self._unread:
            piece = self._read(min(self._unread, _CHUNK))
            self._unread -= len(piece)
            yield piece

    def _next(self) -> Member | None:
        extension = _Extension()
        while (header := self._header()) is not None:
            if header.type not in _EXTENSIONS:
                return _member(header, extension)
            extension.add(header.type, self._extension_data(header))
        if extension.kinds:
            raise ArchiveRefused("it ends after an extended header")
        self._check_end()
        return None

    def _header(self) -> tarfile.TarInfo | None:
        block = self._read(_BLOCK)
        if not any(block):
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except UnicodeDecodeError as error:
            raise _not_utf8(error) from None
        except tarfile.HeaderError as error:
            where = self.offset - _BLOCK
            raise ArchiveRefused(f"its header at byte {where} is damaged ({error})") from error

    def _extension_data(self, header: tarfile.TarInfo) -> bytes:
        if not 0 <= header.size <= _MAX_EXTENSION:
            raise ArchiveRefused(f"it has an extended header of {header.size} bytes")
        return self._read(header.size + -header.size % _BLOCK)[: header.size]

    def _check_end(self) -> None:
        if any(self._read(_BLOCK)):
            raise ArchiveRefused("it has data after its end")
        padding = 0
        while piece := self._source.read(_CHUNK):
            padding += len(piece)
            if any(piece) or padding > _MAX_PADDING:
                raise ArchiveRefused("it has data after its end")

    def _read(self, size: int) -> bytes:
        data = self._source.read(size)
        self.offset += len(data)
        if len(data) < size:
            raise ArchiveRefused(f"it ends too early, at byte {self.offset}")
        return data


def _member(header: tarfile.TarInfo, extension: _Extension) -> Member:
    name = header.name if extension.name is None else extension.name
    size = header.size if extension.size is None else extension.size
    is_folder = header.type == tarfile.DIRTYPE
    if not is_folder and header.type not in _FILES:
        kind = _REFUSED_KINDS.get(header.type, f"of the unknown kind {header.type!r}")
        raise ArchiveRefused(
            f"{quoted(name)} is {kind}, and an update holds only files and folders"
        )
    if size < 0 or (is_folder and size):
        raise ArchiveRefused(f"{quoted(name)} has the size {size}")
    return Member(name, size, is_folder, is_executable=bool(header.mode & 0o100))


def _pax_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Split `LENGTH KEY=VALUE` lines (POSIX.1-2017, pax, "pax Extended Header")."""
    start = 0
    while start < len(data):
        match = _PAX_RECORD.match(data, start)
        end = start + int(match[1]) if match else 0
        if not match or not match.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise ArchiveRefused(f"it has an extended header that is damaged at its byte {start}")
        yield match[2], data[match.end() : end - 1]
        start = end


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from None


def _not_utf8(error: UnicodeDecodeError) -> ArchiveRefused:
    return ArchiveRefused(f"the name {quoted(error.object)} is not UTF-8")
