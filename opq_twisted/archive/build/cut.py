"""Cuts the tar stream of an update into pieces that stay the same where its content does."""

import re
from collections.abc import Iterable, Iterator
from hashlib import sha256

#: Bytes of the longest piece: bzip2 compresses it as one block, unless it expands runs of bytes.
MAX_PIECE = 880_000
#: Bytes from which on a member's body is cut by its content.
LARGE = 256 << 10

#: Bytes: a shorter piece compresses badly, and a longer one travels as a whole for a small change.
_MIN_PIECE = 400_000
#: A piece ends before one in so many members.
_ONE_IN = 4

#: The byte before which no search stops: some that are rare, but exist, in text, in numbers, in
#: programs and in compressed data, so that most bytes are skipped at the speed of the C library.
_RARE = bytes((0x01, *b"\n,7Tk", 0x83, 0xA5, 0xBD, 0xE8, 0xF9))
#: After it, each byte must have this parity of some of its three lowest bits: half of the digits
#: do, half of the letters, and half of all bytes.
_PARITIES = (
    (1, 0),
    (6, 1),
    (5, 0),
    (3, 1),
    (4, 0),
    (7, 1),
    (2, 1),
    (5, 1),
    (7, 0),
    (1, 1),
    (3, 0),
    (6, 0),
    (4, 1),
)


def _pattern(length: int) -> "re.Pattern[bytes]":
    def charset(values: Iterable[int]) -> bytes:
        return b"[%s]" % b"".join(b"\\x%02x" % value for value in values)

    halves = (
        charset(value for value in range(256) if (value & mask).bit_count() % 2 == parity)
        for mask, parity in _PARITIES[:length]
    )
    return re.compile(charset(_RARE) + b"".join(halves))


#: Where a body is cut, if it has such a place: the rarer, the sooner two versions of a body that
#: differ by some inserted bytes are cut in the same places again.
_PLACES = tuple(_pattern(length) for length in (13, 9, 5, 0))


class Cutter:
    """
    Takes the members of a tar stream one after the other, and yields its pieces.

    A change of a member changes its own piece, or at a few places the next one, too. Small members
    are together in a piece, which ends where the path of the next member says so. A large body is
    cut where its content says so, so that bytes inserted in it move only a few of the cuts.
    """

    def __init__(self) -> None:
        self._piece = bytearray()

    def add(self, path: str, member: bytes) -> Iterator[bytes]:
        """Add a member: its header, its body with less than `LARGE` bytes, and its padding."""
        length = len(self._piece)
        if length + len(member) > MAX_PIECE or (length >= _MIN_PIECE and _ends_before(path)):
            yield from self.end_piece()
        self._piece += member

    def add_large(self, header: bytes, body: Iterable[bytes]) -> Iterator[bytes]:
        """Add a member with a large body, which has its padding."""
        yield from self.end_piece()
        # The header changes with each change of the body, whose beginning may stay the same.
        yield header
        for part in body:
            self._piece += part
            while len(self._piece) > MAX_PIECE:
                end = _cut(self._piece)
                yield bytes(self._piece[:end])
                del self._piece[:end]

    def end_piece(self) -> Iterator[bytes]:
        """End the current piece, unless nothing is in it."""
        if self._piece:
            yield bytes(self._piece)
            self._piece.clear()


def _ends_before(path: str) -> bool:
    return sha256(path.encode()).digest()[0] % _ONE_IN == 0


def _cut(body: bytearray) -> int:
    """Return the length of the first piece of a body that has more than `MAX_PIECE` bytes."""
    for place in _PLACES:
        if found := place.search(body, _MIN_PIECE, MAX_PIECE):
            return found.start()
    return MAX_PIECE
