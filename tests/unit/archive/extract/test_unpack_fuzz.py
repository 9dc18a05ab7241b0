"""A changed archive is refused, or its files are harmless."""

import bz2
import random
import shutil
import stat
import subprocess
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from opq_twisted.archive.decompress import Decompress, fastest, with_stdlib
from opq_twisted.archive.extract.child import NO_ROOM, REFUSED
from opq_twisted.archive.extract.unpack import unpack
from opq_twisted.common.errors import ArchiveRefused, NoRoom
from tests.helpers.archives import (
    BLOCK,
    GNU,
    file,
    folder,
    header,
    layout,
    long_name,
    make_archive,
    padded,
    pax,
    stream,
)
from tests.helpers.hostile_archives import VERSION
from tests.helpers.torture import examples, stride
from tests.helpers.unpacking import Tree, UnpackCase, tree, unpack_command

KIB = 1 << 10


def make_real_archive(path: Path) -> bytes:
    """Make an update of some hundred kilobytes with many bzip2 blocks."""
    source = random.Random(0)
    members = {"data": source.randbytes(300_000)}
    for number in range(60):
        words = [source.choice(["update", "box", "power", "quality"]) for _ in range(2_000)]
        members[f"sources/{number % 7}/{number}.py"] = " ".join(words).encode()
    return make_archive(path, VERSION, members).read_bytes()


def make_odd_stream() -> bytes:
    """Make a tar stream with every kind of member and header that an update may have."""
    return stream(
        pax({"comment": "x"}, b"g"),
        folder("d"),
        *layout(VERSION),
        long_name("d/" + "n" * 120) + file("x", b"x" * 700),
        pax({"path": "d/p", "mtime": "1.5"}) + file("x", b"y" * 100),
        pax({"size": "5"}) + header("d/s", b"0", 0) + padded(b"12345"),
        header("d/o", b"\0", magic=GNU),
        header("e/", b"\0", mode=0o755),
    )


def with_right_checksums(tar: bytes) -> bytes:
    """Correct the checksum of each block that looks like a header."""
    repaired = bytearray(tar)
    for start in range(0, len(tar) - BLOCK + 1, BLOCK):
        if tar[start + 257 : start + 262] == b"ustar":
            block = repaired[start : start + BLOCK]
            block[148:156] = b" " * 8
            repaired[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    return bytes(repaired)


#: Where a header has its name, mode, size, kind, link name, magic and prefix.
FIELDS = (0, 1, 100, 124, 135, 156, 157, 257, 345)
#: What may stand there to some end.
TEXTS = (
    *(b"..\0", b"../", b"../x\0", b"/", b"/x\0", b"a/../../x\0", b"VERSION\0", b"d\0", b"d/x\0"),
    *(b"0", b"1", b"2", b"5", b"L", b"x", b"\0", b"\n", b"\xff", b"0006777\0", b"77777777777\0"),
    b"\x80" + bytes(10) + b"\1",
)


@st.composite
def damaged(draw: st.DrawFn, tar: bytes) -> bytes:
    """Change blocks, or bytes in blocks, of a tar stream; the checksums may be corrected."""
    blocks = [tar[start : start + BLOCK] for start in range(0, len(tar), BLOCK)]
    for _ in range(draw(st.integers(1, 4))):
        # Not `integers`, of which Hypothesis tries small ones first.
        place = draw(st.sampled_from(range(len(blocks))))
        change = draw(st.sampled_from([*["field"] * 6, "flip", "copy", "remove", "insert"]))
        if change == "field":
            offset, text = draw(st.sampled_from(FIELDS)), draw(st.sampled_from(TEXTS))
            block = blocks[place]
            blocks[place] = (block[:offset] + text + block[offset + len(text) :])[:BLOCK]
        elif change == "flip":
            flipped = bytearray(blocks[place])
            flipped[draw(st.sampled_from(range(BLOCK)))] ^= 1 << draw(st.integers(0, 7))
            blocks[place] = bytes(flipped)
        elif change == "copy":
            blocks.insert(draw(st.sampled_from(range(len(blocks)))), blocks[place])
        elif change == "remove" and len(blocks) > 1:
            del blocks[place]
        else:
            blocks[place] += draw(st.binary(max_size=BLOCK))
    content = b"".join(blocks)
    is_mended = draw(st.sampled_from([True, True, True, False]))
    return with_right_checksums(content) if is_mended else content


class FuzzCase(UnpackCase):
    """An archive that is changed at random."""

    def unpack(self, content: bytes, decompress: Decompress = with_stdlib) -> Tree | None:
        """Unpack in this process; returns None if the archive was refused."""
        self.archive.write_bytes(content)
        try:
            unpack(self.archive, self.destination, VERSION, reserve=0, decompress=decompress)
        except (ArchiveRefused, NoRoom) as error:
            self.assertTrue(str(error).isprintable())
            self.assertNothing()
            return None
        return self.take()

    def unpack_in_child(self, content: bytes) -> Tree | None:
        """Unpack in the process that the agent starts; returns None if the archive was refused."""
        self.archive.write_bytes(content)
        with self.archive.open() as archive:
            done = subprocess.run(
                [*unpack_command(self.destination), "--reserve=0"],
                stdin=archive,
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            self.assertIn(done.returncode, (REFUSED, NO_ROOM), done.stderr)
            self.assertNothing()
            return None
        return self.take()

    def take(self) -> Tree:
        """Check that the unpacked files are harmless; remove and return them."""
        found = tree(self.destination)
        for path, (mode, _) in found.items():
            self.assertTrue(stat.S_ISREG(mode) or stat.S_ISDIR(mode), path)
            self.assertIn(stat.S_IMODE(mode), (0o644, 0o755), path)
        shutil.rmtree(self.destination)
        self.assertNothing()
        return found


class DamageTests(FuzzCase):
    """Damage to a real archive."""

    def setUp(self) -> None:
        super().setUp()
        self.good = make_real_archive(self.archive)
        self.assertGreater(len(self.good), 300 * KIB)
        self.expected = self.unpack(self.good)
        self.assertIsNotNone(self.expected)

    def test_truncation(self) -> None:
        """An archive that is cut off at any kilobyte is refused."""
        for length in range(0, len(self.good), KIB):
            self.assertIsNone(self.unpack(self.good[:length]), length)

    def test_truncation_with_an_end(self) -> None:
        """An archive without its middle is refused."""
        for length in range(0, len(self.good) - KIB, stride(4) * KIB):
            self.assertIsNone(self.unpack(self.good[:length] + self.good[-KIB:]), length)
        for length in range(0, len(self.good) - KIB, 16 * stride(2) * KIB):
            content = self.good[:length] + self.good[-KIB:]
            self.assertIsNone(self.unpack(content, fastest), length)

    def flip(self, bit: int) -> bytes:
        flipped = bytearray(self.good)
        flipped[bit // 8 % len(flipped)] ^= 1 << bit % 8
        return bytes(flipped)

    @examples(150)
    @given(st.integers(0, 4000 * KIB))
    def test_bit_flips(self, bit: int) -> None:
        """A flipped bit is found, or changes nothing."""
        self.assertIn(self.unpack(self.flip(bit)), (None, self.expected))

    @examples(15)
    @given(st.integers(0, 4000 * KIB))
    def test_bit_flips_in_child(self, bit: int) -> None:
        """The same is true for the process, with lbzip2 if it is installed."""
        self.assertIn(self.unpack_in_child(self.flip(bit)), (None, self.expected))


class TarTests(FuzzCase):
    """Damage to the tar stream that bzip2 cannot find."""

    ODD = make_odd_stream()

    def test_undamaged(self) -> None:
        """Without damage the stream is an update."""
        found = self.unpack(bz2.compress(self.ODD))
        assert found is not None
        self.assertEqual(found["d/s"][1], b"12345")
        self.assertEqual(with_right_checksums(self.ODD), self.ODD)

    @examples(400)
    @given(damaged(ODD))
    def test_damaged(self, tar: bytes) -> None:
        """Only regular files and folders are written, and only below the destination."""
        self.unpack(bz2.compress(tar, 1))

    @examples(15)
    @given(damaged(ODD))
    def test_damaged_in_child(self, tar: bytes) -> None:
        """The same is true for the process."""
        self.unpack_in_child(bz2.compress(tar, 1))
