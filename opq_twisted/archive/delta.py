"""Compares two archives: which bytes of the newer one to fetch, and which are here already."""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice

from attrs import field, frozen

from opq_twisted.archive.pieces import Index, Piece

#: Bytes: a longer piece is fetched, because a box reads a piece as a whole to hash it before it is
#: copied. The builder makes none.
MAX_COPIED = 1 << 20

#: Bytes: a smaller archive is fetched whole.
MIN_SIZE = 1_000_000

#: Bytes that are here but are fetched nevertheless, between two ranges that would otherwise need a
#: request each. At 2 Mbit/s they take as long as a round trip of 60 ms.
_MAX_GAP = 16 << 10

#: A delta is worth its requests if at least this part of the archive is here.
_MIN_SAVED = 0.1


@frozen
class Copy:
    """A piece of the new archive that the old archive has too."""

    piece: Piece
    #: Its offset in the old archive, in bytes.
    source: int

    @property
    def start(self) -> int:
        """Its offset in the new archive."""
        return self.piece.start

    @property
    def end(self) -> int:
        """The offset in the new archive of the first byte after it."""
        return self.piece.end


@frozen
class Fetch:
    """A range of the new archive that is not here, in bytes; `end` is exclusive."""

    start: int
    end: int


@frozen
class Delta:
    """The way to assemble a new archive, from its first to its last byte."""

    #: In the order of the archive, without gaps.
    steps: tuple[Copy | Fetch, ...]
    #: Bytes that are here already; computed once, because each report of progress has it.
    copied: int = field(init=False)

    @copied.default
    def _count_copied(self) -> int:
        return sum(step.end - step.start for step in self.steps if isinstance(step, Copy))

    @property
    def size(self) -> int:
        """Bytes of the new archive."""
        return self.steps[-1].end if self.steps else 0

    @property
    def fetched(self) -> int:
        """Bytes to fetch."""
        return self.size - self.copied

    @property
    def pays(self) -> bool:
        """Whether so much is here that the delta is worth its requests."""
        return self.size >= MIN_SIZE and self.copied >= _MIN_SAVED * self.size

    def copied_before(self, offset: int) -> int:
        """Return how many of the new archive's first `offset` bytes are here already."""
        return sum(
            min(offset, step.end) - step.start
            for step in self.steps
            if isinstance(step, Copy) and step.start < offset
        )

    def next_from(self, offset: int) -> tuple[list[Copy], Fetch | None]:
        """Return the pieces to copy from an offset on, and the range to fetch after them."""
        copies: list[Copy] = []
        number = bisect_right(self.steps, offset, key=lambda step: step.start) - 1
        for step in islice(self.steps, max(number, 0), None):
            if isinstance(step, Fetch):
                return copies, step
            copies.append(step)
        return copies, None

    def without(self, copy: Copy) -> "Delta":
        """Fetch a piece that cannot be copied."""
        fetch = Fetch(copy.start, copy.end)
        return Delta(tuple(fetch if step is copy else step for step in self.steps))

    def whole_from(self, offset: int) -> "Delta":
        """Fetch everything from an offset on, in one range."""
        before = [step for step in self.steps if step.end <= offset]
        end = before[-1].end if before else 0
        return Delta((*before, Fetch(end, self.size)))


def compare(new: Index, old: Index) -> Delta:
    """Find the way to assemble the new archive, of which the pieces of the old one are here."""
    sources = {each.digest: each for each in old.pieces if each.length <= MAX_COPIED}
    steps: list[Copy | Fetch] = []
    for piece in new.pieces:
        source = sources.get(piece.digest)
        if source is not None and source.length == piece.length:
            steps.append(Copy(piece, source.start))
        else:
            steps.append(Fetch(piece.start, piece.end))
    return Delta(tuple(_merge_ranges(steps)))


def _merge_ranges(steps: list[Copy | Fetch]) -> Iterator[Copy | Fetch]:
    """Merge ranges that are next to each other, or have only a small gap between them."""
    range_: Fetch | None = None
    gap: list[Copy] = []
    for step in steps:
        if isinstance(step, Copy):
            gap.append(step)
            continue
        if range_ is not None and step.start - range_.end <= _MAX_GAP:
            range_ = Fetch(range_.start, step.end)
        else:
            if range_ is not None:
                yield range_
            yield from gap
            range_ = step
        gap = []
    if range_ is not None:
        yield range_
    yield from gap
