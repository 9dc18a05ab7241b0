"""Tests of the comparison of two archives."""

import random
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.delta import MAX_COPIED, Copy, Delta, Fetch, compare
from opq_twisted.archive.extract.unpack import validate
from opq_twisted.archive.pieces import Index, Piece, read_index
from tests.helpers.archives import make_pieces_archive, name_of, random_parts

LARGE = 200_000


def make_index(*pieces: tuple[int, int]) -> Index:
    """Make an index of pieces, each given as its length and a number for its content."""
    made: list[Piece] = []
    for length, content in pieces:
        start = made[-1].end if made else 0
        made.append(Piece(start, length, content.to_bytes(32, "big")))
    return Index(made[-1].end if made else 0, "00" * 32, tuple(made))


class CompareTests(SynchronousTestCase):
    """`compare`."""

    def test_one_changed(self) -> None:
        """What the old archive has is copied from there, wherever it is; the rest travels."""
        new = make_index((LARGE, 1), (LARGE, 2), (LARGE, 3))
        old = make_index((7, 9), (LARGE, 3), (LARGE, 1))
        delta = compare(new, old)
        self.assertEqual(
            delta.steps,
            (
                Copy(new.pieces[0], 7 + LARGE),
                Fetch(LARGE, 2 * LARGE),
                Copy(new.pieces[2], 7),
            ),
        )
        self.assertEqual((delta.size, delta.copied, delta.fetched), (600_000, 400_000, LARGE))

    def test_joined(self) -> None:
        """Ranges that are next to each other, or nearly so, are one request."""
        gap = 16 << 10
        new = make_index((10, 1), (20, 2), (gap, 3), (30, 4), (gap + 1, 5), (40, 6), (50, 7))
        old = make_index((gap, 3), (gap + 1, 5), (50, 7))
        self.assertEqual(
            compare(new, old).steps,
            (
                Fetch(0, 60 + gap),
                Copy(new.pieces[4], gap),
                Fetch(61 + 2 * gap, 101 + 2 * gap),
                Copy(new.pieces[6], 2 * gap + 1),
            ),
        )

    def test_long_piece(self) -> None:
        """A piece that is too long for the memory travels."""
        index = make_index((MAX_COPIED, 1), (MAX_COPIED + 1, 2))
        self.assertEqual(compare(index, index).fetched, MAX_COPIED + 1)

    def test_same_digest_other_length(self) -> None:
        """An index that lies about a length does not make a box copy the wrong number of bytes."""
        self.assertEqual(compare(make_index((7, 1)), make_index((8, 1))).fetched, 7)

    def test_next_from(self) -> None:
        """From any byte on, the pieces up to the next range are given, and that range."""
        new = make_index((LARGE, 1), (LARGE, 2), (LARGE, 3), (LARGE, 4), (LARGE, 5))
        delta = compare(new, make_index((LARGE, 1), (LARGE, 2), (LARGE, 4), (LARGE, 5)))
        first, second, fetch, *others = delta.steps
        for offset, copies, range_ in (
            (0, [first, second], fetch),
            (LARGE - 1, [first, second], fetch),
            (LARGE, [second], fetch),
            (2 * LARGE, [], fetch),
            (3 * LARGE - 1, [], fetch),
            (3 * LARGE, others, None),
            (5 * LARGE - 1, others[1:], None),
        ):
            self.assertEqual(delta.next_from(offset), (copies, range_))

    def test_pays(self) -> None:
        """A delta that saves less than a tenth is not worth its requests."""
        for here, pays in ((99_999, False), (100_000, True)):
            new = make_index((here, 1), (1_000_000 - here, 2))
            self.assertIs(compare(new, make_index((here, 1))).pays, pays)

    def test_small(self) -> None:
        """A delta of a small archive is not worth its requests, even if nothing has to travel."""
        for size, pays in ((999_999, False), (1_000_000, True)):
            self.assertIs(compare(make_index((size, 1)), make_index((size, 1))).pays, pays)

    def test_nothing(self) -> None:
        """An empty archive needs no step."""
        self.assertEqual(compare(make_index(), make_index((1, 1))), Delta(()))

    def test_complete(self) -> None:
        """The steps of any two archives give each byte once, in order."""
        for seed in range(200):
            source = random.Random(seed)

            def archive(source: random.Random = source) -> Index:
                contents = [source.randint(1, 30) for _ in range(source.randint(0, 25))]
                return make_index(*((each * 5_000, each) for each in contents))

            new, old = archive(), archive()
            delta, end = compare(new, old), 0
            for step in delta.steps:
                self.assertEqual(step.start, end)
                copies, fetch = delta.next_from(end)
                self.assertIs(copies[0] if copies else fetch, step)
                if isinstance(step, Copy):
                    there = next(each for each in old.pieces if each.start == step.source)
                    self.assertEqual(there.digest, step.piece.digest)
                end = step.end
            self.assertEqual(end, new.size)
            before = [delta.copied_before(offset) for offset in range(0, new.size + 1, 2_500)]
            self.assertEqual(before, sorted(before))
            self.assertEqual(before[-1] if before else 0, delta.copied)


class ArchiveTests(SynchronousTestCase):
    """Two real archives."""

    def index(self, version: int, *seeds: int) -> Index:
        """Index an update of these parts, which a box would unpack."""
        folder = Path(self.mktemp())
        folder.mkdir()
        path = make_pieces_archive(folder / name_of(version), version, random_parts(*seeds))
        with path.open("rb") as file:
            validate(file, version)
            return read_index(file.fileno(), path.stat().st_size)

    def test_one_part_changed(self) -> None:
        """Equal parts are copied; the changed part and the version travel."""
        new, old = self.index(1_547_947_203, 1, 4, 3), self.index(1_547_860_803, 1, 2, 3)
        self.assertEqual(len(new.pieces), 5)
        delta = compare(new, old)
        kinds = [type(each) for each in delta.steps]
        self.assertEqual(kinds, [Fetch, Copy, Fetch, Copy, Copy])
        self.assertTrue(400_000 < delta.fetched < 404_000, delta.fetched)
        self.assertTrue(800_000 < delta.copied < 806_000, delta.copied)
