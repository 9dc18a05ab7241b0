"""Cuts the tar stream of an update into pieces that stay the same where its content does."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import sha256

#: Bytes of the longest piece: bzip2 compresses it as one block, unless it has long runs of a byte.
MAX_PIECE = 880_000
#: Bytes from which on a member's body is cut by its content.
LARGE = 440_000

#: Bytes of a piece of smaller members, with those that each member counts as more. In a narrower
#: range, an added member would move the ends of many later pieces.
_MEMBERS = range(500_000, MAX_PIECE)
#: Bytes that each smaller member of an update counts as more than it has, by the greatest share of
#: the archive that all of them make up. A changed member changes its whole piece, so that few
#: members in a piece keep an update small; but shorter pieces compress worse. With these an archive
#: of Linux' sources, modules and wheels is at most 1.5 % larger than that of `tar cjf`, whatever
#: the share of the sources is. There are few, because an update that needs another one than the
#: update before shares no piece of smaller members with it.
_MORE_PER_MEMBER = {0.15: 48_000, 0.29: 24_000, 0.4: 15_000, 0.6: 10_000, 1.0: 5_000}
#: To how small a part bzip2 compresses sources, programs and kernel modules.
_COMPRESSED = 1 / 5
#: Bytes of a piece of a large body.
_BODY = range(400_000, MAX_PIECE)
#: The same where the body is dense, which means compressed already: these may be short.
_DENSE_BODY = range(160_000, 512_000)

#: Bytes from which on a dense member is a piece of its own.
DENSE_MEMBER = 128 << 10
#: The bytes at the beginning of data of which some decide whether it is dense: one of each step.
SAMPLE, _STEP = 128 << 10, 64
#: The most squares that the frequencies of a sample's bytes add up to, if these are evenly
#: distributed; text and programs have three times as many.
_EVENLY = 1.3 * ((SAMPLE // _STEP) ** 2 / 256 + SAMPLE // _STEP)

#: A search for a place to cut stops at these bytes only. They are rare in text, numbers, programs
#: and compressed data, but exist there, so that it skips most bytes at the speed of C.
_RARE = bytes((0x01, *b"\n,7Tk", 0x83, 0xA5, 0xBD, 0xE8, 0xF9))
#: A place is such a byte and some more: of each, the bits in a mask must have a parity. Half of the
#: bytes, of the letters and of the digits have it.
_MASKS_AND_PARITIES = (
    *((1, 0), (6, 1), (5, 0), (3, 1), (4, 0), (7, 1)),
    *((2, 1), (5, 1), (7, 0), (1, 1), (3, 0), (6, 0)),
)


def _place(more: int) -> "re.Pattern[bytes]":
    def charset(values: Iterable[int]) -> bytes:
        return b"[%s]" % b"".join(b"\\x%02x" % value for value in values)

    halves = (
        charset(value for value in range(256) if (value & mask).bit_count() % 2 == parity)
        for mask, parity in _MASKS_AND_PARITIES[:more]
    )
    return re.compile(charset(_RARE) + b"".join(halves))


#: Places at which a body is cut, from the rarest kind (one in 100,000 bytes) to the most frequent.
#: After a rare place, two versions of a body are likely to be cut in the same way.
_RAREST, *_OTHERS = (_place(more) for more in (12, 9, 5, 0))


class Cutter:
    """
    Takes the members of a tar stream one after the other, and yields its pieces.

    Small members are together in a piece, which ends before a member whose path is chosen by its
    hash: so a changed member changes no other piece. Each component begins a new piece. A large
    body is cut at places that its content determines: so inserted bytes move only the cuts beside
    them.
    """

    def __init__(self, more_per_member: int) -> None:
        """:param more_per_member: as `choose_more_per_member` returns it."""
        #: The beginning of the next piece.
        self._piece = bytearray()
        #: Where members begin in it, each with the hash of the path.
        self._members: list[tuple[bytes, int]] = []
        self._more_per_member = more_per_member

    def add(self, path: str, member: bytes) -> Iterator[bytes]:
        """Add a member with less than `LARGE` bytes: its header, its body and its padding."""
        if len(member) >= DENSE_MEMBER and is_dense(member):
            yield from self.end_piece()
            yield member
            return
        if self._piece:
            self._members.append((sha256(path.encode()).digest(), len(self._piece)))
        if self._count(len(self._piece) + len(member), len(self._members) + 1) > _MEMBERS.stop:
            usual = [
                each
                for number, each in enumerate(self._members, 1)
                if self._count(each[1], number) in _MEMBERS
            ]
            if usual:
                yield self._take(min(usual)[1])
            elif self._count(len(self._piece), len(self._members)) >= _MEMBERS.start:
                yield from self.end_piece()
        self._piece += member

    def add_large(self, header: bytes, body: Iterable[bytes]) -> Iterator[bytes]:
        """Add a member whose body, with its padding, has at least `LARGE` bytes."""
        yield from self.end_piece()
        # The header changes with each change of the body, even if the body's beginning does not.
        yield header
        for part in body:
            self._piece += part
            while len(self._piece) > MAX_PIECE and (end := _find_end(self._piece)):
                yield self._take(end)
        while end := _find_end(self._piece):
            yield self._take(end)

    def end_piece(self) -> Iterator[bytes]:
        """End the current piece, unless it is empty."""
        if self._piece:
            yield self._take(len(self._piece))

    def _count(self, size: int, members: int) -> int:
        return size + members * self._more_per_member

    def _take(self, end: int) -> bytes:
        piece = bytes(self._piece[:end])
        del self._piece[:end]
        self._members = [(digest, at - end) for digest, at in self._members if at > end]
        return piece


def _find_end(body: bytearray) -> int | None:
    """Return where the first piece of a body ends; None if the rest of the body is one piece."""
    lengths = _DENSE_BODY if is_dense(body) else _BODY
    if found := _RAREST.search(body, lengths.start, lengths.stop):
        return found.start()
    if len(body) <= lengths.stop:
        return None
    for place in _OTHERS:
        if found := place.search(body, lengths.start, lengths.stop):
            return found.start()
    return lengths.stop


def choose_more_per_member(sizes: Iterable[tuple[int, bool]]) -> int:
    """
    Choose how many bytes each smaller member of an update counts as more than it has.

    :param sizes: of all members, each with whether its body is dense.
    """
    smaller = others = 0.0
    for size, dense in sizes:
        if dense:
            others += size
        elif size >= LARGE:
            others += size * _COMPRESSED
        else:
            smaller += size * _COMPRESSED
    share = smaller / (smaller + others or 1)
    return next(more for most, more in _MORE_PER_MEMBER.items() if share <= most)


def is_dense(data: bytes | bytearray) -> bool:
    """Whether the bytes at the beginning of some data are evenly distributed."""
    frequencies = Counter(data[:SAMPLE:_STEP]).values()
    return sum(each * each for each in frequencies) < _EVENLY
