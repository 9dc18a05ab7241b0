"""The index of an archive: the bzip2 streams of which it consists, called its pieces."""

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

from attrs import frozen

from opq_twisted.archive.sizes import MAX_ARCHIVE
from opq_twisted.common import files

#: A piece begins where these bytes are: the header of a bzip2 stream, and that of its first block.
#: Compressed data contains them by chance once in 2 ** 80 places. This does no harm, because all
#: readers of the archive find the same pieces.
MAGIC = b"BZh91AY&SY"

#: An archive with more pieces has no index. The builder makes half as many from 2 GiB of compressed
#: files, and more only from very many small files.
MAX_PIECES = 16_384

#: Bytes of an index as JSON; `MAX_PIECES` pieces fit.
MAX_INDEX = 1 << 20

_DIGEST_SIZE = hashlib.sha256().digest_size


class NoIndex(Exception):
    """An archive has no index, or bytes are not an index; the message says why."""


@frozen
class Piece:
    """A part of an archive that is the same, byte for byte, wherever its content is the same."""

    #: Bytes before it.
    start: int
    #: Bytes.
    length: int
    #: Its SHA-256 (32 bytes).
    digest: bytes

    @property
    def end(self) -> int:
        """The offset of the first byte after it."""
        return self.start + self.length


@frozen
class Index:
    """
    The pieces of an archive, in their order, without gaps.

    It depends on the bytes of the archive alone, so nobody has to sign or to store it. An index
    from the network is not trusted: a box verifies what it has assembled with it.
    """

    size: int
    #: Of the whole archive, in lower-case hexadecimal.
    sha256: str
    pieces: tuple[Piece, ...]

    def to_json(self) -> bytes:
        """Encode the index: `{"size": …, "sha256": …, "pieces": [[LENGTH, BASE64], …]}`."""
        pieces = [[each.length, b64encode(each.digest).decode()] for each in self.pieces]
        document = {"size": self.size, "sha256": self.sha256, "pieces": pieces}
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Index":
        """
        Decode an index.

        :raises NoIndex: if the bytes are not an index of one archive.
        """
        try:
            return cls._decode(json.loads(data))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise NoIndex(f"it is not an index of pieces ({error})") from None

    @classmethod
    def _decode(cls, document: Any) -> "Index":
        pairs, size, sha256 = document["pieces"], document["size"], document["sha256"]
        if len(pairs) > MAX_PIECES:
            raise ValueError(f"more than {MAX_PIECES} pieces")
        if not isinstance(sha256, str) or len(bytes.fromhex(sha256)) != _DIGEST_SIZE:
            raise ValueError("no SHA-256")
        pieces: list[Piece] = []
        end = 0
        for length, digest in pairs:
            if type(length) is not int or not 0 < length <= MAX_ARCHIVE:
                raise ValueError("an impossible length")
            decoded = b64decode(digest, validate=True)
            if len(decoded) != _DIGEST_SIZE:
                raise ValueError("an impossible digest")
            pieces.append(Piece(end, length, decoded))
            end += length
        if type(size) is not int or end != size:
            raise ValueError("the lengths do not add up to the size")
        return cls(size, sha256.lower(), tuple(pieces))


def read_index(
    fd: int, size: int, each_chunk: Callable[[bytes], object] = lambda chunk: None
) -> Index:
    """
    Find the pieces of an open archive, and hash them, in one pass and in bounded memory.

    The position of the descriptor does not move.

    :param size: the size of the archive in bytes.
    :param each_chunk: is called with all bytes in order. If it raises an error, the reading ends
        with that error.
    :raises NoIndex: if the archive has more than `MAX_PIECES` pieces, or is larger than a box
        takes.
    :raises OSError: if the archive cannot be read.
    """
    if size > MAX_ARCHIVE:
        raise NoIndex("the archive is larger than a box takes")
    finder = PieceFinder()

    def add(chunk: bytes) -> None:
        each_chunk(chunk)
        finder.add(chunk)
        finder.check()

    hashes = files.hash_file(fd, ["sha256"], size, each_chunk=add)
    return Index(size, hashes["sha256"], finder.finish())


class PieceFinder:
    """Finds the pieces of an archive while its bytes are read."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._start = self._length = 0
        self._hash = hashlib.sha256()
        #: The last bytes, which may be the beginning of a magic; they are not hashed yet.
        self._rest = b""

    def add(self, data: bytes) -> None:
        """Add the next bytes of the archive."""
        if len(self._pieces) > MAX_PIECES:
            return
        data = self._rest + data
        view, done = memoryview(data), 0
        # The magic at the very start of the archive ends no piece.
        found = data.find(MAGIC, 0 if self._start + self._length else 1)
        while found != -1 and len(self._pieces) <= MAX_PIECES:
            self._take(view[done:found])
            self._end_piece()
            done, found = found, data.find(MAGIC, found + 1)
        # The first byte of a complete magic is always taken, so it is not found again.
        kept = max(len(data) - len(MAGIC) + 1, 0)
        self._take(view[done:kept])
        self._rest = data[kept:]

    def finish(self) -> tuple[Piece, ...]:
        """Return all pieces, after the last bytes; raise `NoIndex` if they are too many."""
        self._take(memoryview(self._rest))
        if self._length:
            self._end_piece()
        self.check()
        return tuple(self._pieces)

    def check(self) -> None:
        """Raise `NoIndex` if the archive has too many pieces; then further bytes are ignored."""
        if len(self._pieces) > MAX_PIECES:
            raise NoIndex(f"the archive has more than {MAX_PIECES} pieces")

    def _take(self, data: memoryview) -> None:
        self._hash.update(data)
        self._length += len(data)

    def _end_piece(self) -> None:
        self._pieces.append(Piece(self._start, self._length, self._hash.digest()))
        self._start += self._length
        self._length = 0
        self._hash = hashlib.sha256()
