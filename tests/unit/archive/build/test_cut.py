"""Pieces stay the same where the content does, and are few enough and long enough."""

from collections.abc import Callable
from functools import cache
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.build.cut import LARGE, MAX_PIECE, Cutter, choose_more_per_member
from opq_twisted.archive.decompress import MAX_STREAMS
from opq_twisted.archive.member_rules import MAX_MEMBERS
from opq_twisted.archive.sizes import LIMIT

MEGABYTE = 1_000_000

#: Bytes that each smaller member counts as more: the fewest and the most that the builder chooses.
FEWEST, MOST = 5_000, 48_000


def cut_members(*components: dict[str, bytes], more: int = FEWEST) -> list[bytes]:
    """Return the pieces of members with less than `LARGE` bytes."""
    cutter = Cutter(more)
    pieces: list[bytes] = []
    for members in components:
        pieces += cutter.end_piece()
        for path, member in members.items():
            pieces += cutter.add(path, member)
    return [*pieces, *cutter.end_piece()]


def cut_body(body: bytes, part: int = 1 << 18) -> list[bytes]:
    """Return the pieces of a large body that is read in parts."""
    cutter = Cutter(FEWEST)
    parts = (body[at : at + part] for at in range(0, len(body), part))
    header, *pieces = [*cutter.add_large(b"header", parts), *cutter.end_piece()]
    assert header == b"header"
    return pieces


def changed(new: list[bytes], old: list[bytes]) -> int:
    """Count the bytes in pieces that only the new list has."""
    return sum(len(piece) for piece in new if piece not in old)


def make_text(random: Random, size: int) -> bytes:
    """Return words with spaces between them."""
    words = [random.randbytes(random.randint(1, 5)).hex().encode() for _ in range(2000)]
    return b" ".join(random.choices(words, k=size // 6))[:size]


def make_program(random: Random, size: int) -> bytes:
    """Return what is neither text nor evenly distributed."""
    return bytes(random.choices(range(256), weights=range(256, 0, -1), k=size))


def make_sparse(random: Random, size: int) -> bytes:
    """Return long runs of zeros, with other bytes between them."""
    data = bytearray()
    while len(data) < size:
        data += random.randbytes(random.randint(1, 3000)) + bytes(random.randint(1, MEGABYTE))
    return bytes(data[:size])


#: Kinds of large bodies.
KINDS: dict[str, Callable[[Random, int], bytes]] = {
    "random": Random.randbytes,
    "text": make_text,
    "program": make_program,
    "sparse": make_sparse,
    "zeros": lambda _, size: bytes(size),
    "a long period": lambda random, size: random.randbytes(100_000) * (size // 100_000),
    "a short period": lambda random, size: random.randbytes(1000) * (size // 1000),
    "four letters": lambda random, size: bytes(random.choices(b"ACGT", k=size)),
    "digits": lambda random, size: bytes(random.choices(b"0123456789", k=size)),
}


@cache
def make_members() -> tuple[dict[str, bytes], list[bytes]]:
    """Return many members, and their pieces."""
    random = Random(0)
    members = {
        f"folder/{number}": make_text(random, random.randint(1, 40_000)) for number in range(400)
    }
    return members, cut_members(members)


class MembersTests(SynchronousTestCase):
    """Members that are together in pieces."""

    def setUp(self) -> None:
        self.members, self.pieces = make_members()

    def test_nothing_is_lost(self) -> None:
        """The pieces are the members, one after the other."""
        self.assertEqual(b"".join(self.pieces), b"".join(self.members.values()))

    def test_lengths(self) -> None:
        """All pieces but the last one are long enough to compress well, and none is too long."""
        self.assertTrue(all(350_000 <= len(piece) < MAX_PIECE for piece in self.pieces[:-1]))

    def test_changed_member(self) -> None:
        """A member that gets longer or shorter changes few pieces."""
        for number in range(0, 400, 40):
            members = self.members | {f"folder/{number}": b"another content"}
            new = cut_members(members)
            differ = [piece for piece in new if piece not in self.pieces]
            self.assertIn(len(differ), range(1, 6), number)

    def test_added_and_removed(self) -> None:
        """After another member is added, or one is removed, most pieces are the same."""
        added = {"an": b"x" * 30_000} | self.members
        removed = {path: data for path, data in self.members.items() if path != "folder/0"}
        for members in (added, removed):
            self.assertLess(changed(cut_members(members), self.pieces), 3 * MEGABYTE)

    def test_few_in_a_piece(self) -> None:
        """Where members count as more, few of them share a piece, however small they are."""
        small = {f"small/{number}": b"%d\n" % number * 50 for number in range(400)}
        large = {f"large/{number}": bytes(90_000) for number in range(40)}
        for members, most in ((small, 18), (large, 6)):
            pieces = cut_members(members, more=MOST)
            self.assertEqual(b"".join(pieces), b"".join(members.values()))
            self.assertGreaterEqual(len(pieces), len(members) / most)

    def test_changed_member_of_few(self) -> None:
        """A member that gets longer or shorter changes few pieces then, too."""
        old = cut_members(self.members, more=MOST)
        for number in range(0, 400, 40):
            new = cut_members(self.members | {f"folder/{number}": b"another"}, more=MOST)
            self.assertLess(changed(new, old), MEGABYTE, number)

    def test_components(self) -> None:
        """A component shares no piece with the next one, whatever changes in it."""
        other = {f"other/{number}": b"%d" % number * 100 for number in range(50)}
        self.assertEqual(
            cut_members(other, self.members, other),
            [*cut_members(other), *self.pieces, *cut_members(other)],
        )

    def test_no_usual_end(self) -> None:
        """Members of any size below `LARGE` never make a piece that is too long."""
        random = Random(1)
        sizes = [random.choice((1, 300_000, LARGE - 1)) for _ in range(60)]
        members = {str(number): b"x" * size for number, size in enumerate(sizes)}
        pieces = cut_members(members)
        self.assertGreater(sum(sizes), 4 * MEGABYTE)
        self.assertEqual(b"".join(pieces), b"x" * sum(sizes))
        self.assertLessEqual(max(map(len, pieces)), MAX_PIECE)

    def test_dense_member(self) -> None:
        """A compressed member is a piece of its own, unless it is small."""
        random = Random(2)
        small, large = random.randbytes(100_000), random.randbytes(200_000)
        members = {"text": make_text(random, 1000), "small": small, "large": large, "end": b"end"}
        pieces = cut_members(members)
        self.assertEqual(pieces, [members["text"] + small, large, b"end"])


class BodyTests(SynchronousTestCase):
    """Large bodies."""

    def test_inserted(self) -> None:
        """After bytes are inserted into a body of any kind, most pieces are the same."""
        for kind, make in KINDS.items():
            body = make(Random(3), 6 * MEGABYTE)
            middle = len(body) // 2
            old = cut_body(body)
            new = cut_body(body[:middle] + b"inserted" + body[middle:])
            self.assertEqual(b"".join(old), body, kind)
            self.assertLessEqual(max(map(len, old)), MAX_PIECE, kind)
            self.assertLess(changed(new, old), 3 * MEGABYTE, kind)

    def test_parts(self) -> None:
        """The pieces do not depend on the sizes of the parts in which a body is read."""
        for make in (Random.randbytes, make_text, make_sparse):
            body = make(Random(4), 3 * MEGABYTE)
            pieces = cut_body(body)
            for part in (65_536, 1_000_003, len(body)):
                self.assertEqual(cut_body(body, part), pieces)

    def test_fewest_bytes(self) -> None:
        """Three pieces in a row have at least 128 KiB, unless the members count as more."""
        random = Random(5)
        cutter = Cutter(0)
        lengths: list[int] = []
        for number in range(12):
            lengths += [len(piece) for piece in cutter.add(f"{number}", bytes(512))]
            lengths += [len(each) for each in cutter.add("dense", random.randbytes(128 << 10))]
            lengths += [len(piece) for piece in cutter.add(f"{number}", bytes(512))]
            body = [random.randbytes(LARGE)]
            lengths += [len(piece) for piece in cutter.add_large(bytes(512), body)]
        for start in range(len(lengths) - 2):
            self.assertGreaterEqual(sum(lengths[start : start + 3]), 128 << 10)

    def test_most_pieces(self) -> None:
        """The largest update has no more pieces than a box unpacks."""
        members = {str(number): bytes(512) for number in range(3000)}
        for more in (FEWEST, MOST):
            at_most = len(members) * (512 + more) / 500_000 + 1
            self.assertLessEqual(len(cut_members(members, more=more)), at_most)
        self.assertLess(3 * LIMIT / (128 << 10) + MAX_MEMBERS * MOST / 500_000, MAX_STREAMS)


class ChoiceTests(SynchronousTestCase):
    """How much more than its bytes each smaller member of an update counts as."""

    def choose(self, *, small: int, large: int = 0, dense: int = 0) -> int:
        """Choose it for these megabytes of small text, large programs and compressed data."""
        return choose_more_per_member(
            [
                *[(10_000, False)] * (100 * small),
                *[(MEGABYTE, False)] * large,
                *[(MEGABYTE, True)] * dense,
            ]
        )

    def test_nothing_but_small(self) -> None:
        """Sources alone are in the longest pieces, because these make the smallest archive."""
        for sizes in ({"small": 1}, {"small": 100}, {"small": 100, "large": 20}):
            self.assertEqual(self.choose(**sizes), FEWEST, sizes)

    def test_small_share(self) -> None:
        """The smaller the share of small members in the archive, the fewer are in a piece."""
        chosen = [self.choose(small=20, dense=dense) for dense in range(60)]
        self.assertEqual(chosen, sorted(chosen))
        self.assertEqual((chosen[0], chosen[-1]), (FEWEST, MOST))
        self.assertEqual(len(set(chosen)), 5)

    def test_compressed_size(self) -> None:
        """Members count with about the bytes that they have in the archive."""
        self.assertEqual(self.choose(small=20, large=80), self.choose(small=20, dense=16))
        self.assertEqual(self.choose(small=160, large=60, dense=93), 24_000)
