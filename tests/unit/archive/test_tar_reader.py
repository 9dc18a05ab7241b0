"""A tar stream from a common tool is read, and any other stream is refused."""

import io
import tarfile

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.tar_reader import Member, TarStream, quoted
from opq_twisted.common.errors import ArchiveRefused
from tests.helpers.archives import (
    BLOCK,
    GNU,
    file,
    folder,
    header,
    long_name,
    padded,
    pax,
    raw_pax,
    stream,
)
from tests.helpers.torture import examples

LONG = "folder/" + "n" * 200


def read(tar: bytes) -> list[tuple[Member, bytes]]:
    tar_stream = TarStream(io.BytesIO(tar))
    return [(member, b"".join(tar_stream.content())) for member in tar_stream]


def names(tar: bytes) -> list[str]:
    return [member.name for member, _ in read(tar)]


def made_by_tarfile(format: int, name: str, **headers: str) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=format, pax_headers=headers) as archive:
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = 3, 1547860803.25, 0o750
        archive.addfile(info, io.BytesIO(b"abc"))
    return output.getvalue()


class GoodStreamTests(SynchronousTestCase):
    """The formats of GNU tar, Python's tarfile and git."""

    def test_files_and_folders(self) -> None:
        """Members have the order of the stream, their sizes, their contents and the x bit."""
        tar = stream(folder("a/"), file("a/b", b"x" * 1000, 0o755), file("c"))
        self.assertEqual(
            read(tar),
            [
                (Member("a", 0, is_folder=True, is_executable=True), b""),
                (Member("a/b", 1000, is_folder=False, is_executable=True), b"x" * 1000),
                (Member("c", 0, is_folder=False, is_executable=False), b""),
            ],
        )

    def test_content_may_be_left_unread(self) -> None:
        """The next member can be read after none or only a part of the content before it."""
        tar_stream = TarStream(io.BytesIO(stream(file("a", b"x" * 3_000_000), file("b", b"y"))))
        seen = []
        for member in tar_stream:
            seen.append(member.name)
            next(tar_stream.content())
        self.assertEqual(seen, ["a", "b"])
        self.assertEqual(list(TarStream(io.BytesIO(stream()))), [])

    def test_every_format_of_tarfile(self) -> None:
        """USTAR, GNU and PAX streams with long names, float times and other letters are read."""
        for tar_format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            for name in ("short", "folder/" + "d" * 120 + "/" + "f" * 90, "Mānoa"):
                member = Member(name, 3, is_folder=False, is_executable=True)
                tar = made_by_tarfile(tar_format, name)
                self.assertEqual(read(tar), [(member, b"abc")], (tar_format, name))

    def test_global_header(self) -> None:
        """A global header with a comment, as in archives of git, is ignored."""
        tar = made_by_tarfile(tarfile.PAX_FORMAT, "a", comment="2f0c4a1", mtime="1.5")
        self.assertEqual(names(tar), ["a"])

    def test_long_names(self) -> None:
        """A long name is taken from a GNU header, with or without its NUL, or from a PAX header."""
        without_nul = header("x", b"L", len(LONG), magic=GNU) + padded(LONG.encode())
        for extension in (long_name(LONG), without_nul, pax({"path": LONG})):
            self.assertEqual(names(stream(extension, file("x"), file("y"))), [LONG, "y"])

    def test_size_from_extended_header(self) -> None:
        """The size in a PAX header replaces the size in the member's own header."""
        tar = stream(pax({"size": "5"}), header("a", b"0", 0), padded(b"abcde"), file("b"))
        self.assertEqual([content for _, content in read(tar)], [b"abcde", b""])

    def test_harmless_records(self) -> None:
        """Records with owners, times and attributes are ignored, even binary ones."""
        records = {
            "uid": b"0",
            "mtime": b"1.25",
            "SCHILY.xattr.user.x": b"\xff=\n\0",
            "comment": b"",
            "hdrcharset": b"ISO-IR 10646 2000 UTF-8",
        }
        self.assertEqual(names(stream(pax(records), file("a"))), ["a"])

    def test_padding(self) -> None:
        """More zeros may follow the two zero blocks, up to the end of the last record."""
        for padding in (0, 1, 10_240, 1 << 20):
            self.assertEqual(names(stream(file("a")) + bytes(padding)), ["a"])

    def test_old_kind(self) -> None:
        """The kind NUL of the oldest tars is a file, or a folder when its name ends in a slash."""
        members = [m for m, _ in read(stream(header("a", b"\0"), header("b/", b"\0")))]
        self.assertEqual([(m.name, m.is_folder) for m in members], [("a", False), ("b", True)])


class RefusedStreamTests(SynchronousTestCase):
    """Each of these streams is refused, with the right reason."""

    def assertRefused(self, tar: bytes, reason: str) -> None:
        error = self.assertRaises(ArchiveRefused, read, tar)
        self.assertIn(reason, str(error))
        self.assertTrue(str(error).isprintable())

    def test_sizes(self) -> None:
        """A negative size is refused, and a folder with a size."""
        for size in ("-1", "", "1e3", "0x10", " 1", "+1", "1" * 30, "\u0663"):
            self.assertRefused(stream(pax({"size": size}), file("a", b"b")), "with the size")
        negative, huge = b"\xff" * 12, b"\x80" + b"\x7f" * 11
        self.assertRefused(stream(header("a", b"0", negative)), "'a' has the size -1")
        self.assertRefused(stream(header("a", b"0", huge)), "ends too early")
        self.assertRefused(stream(header("a", b"0", b"garbage")), "damaged")
        self.assertRefused(stream(header("a/", b"5", 512), bytes(512)), "'a' has the size 512")
        self.assertRefused(stream(pax({"size": "9"}), folder("a"), bytes(512)), "has the size 9")

    def test_malformed_records(self) -> None:
        """A PAX header with an incomplete record or a wrong length is refused."""
        for content in (
            b"9 path=b",
            b"99 path=b\n",
            b"08 path=b\n",
            b"-9 path=b\n",
            b"0 path=b\n",
            b"2 path=b\n",
            b"7 path=b\n",
            b"9 pathbb\n",
            b"9path=bb\n",
            b"5 =b\n",
            b"path=b\n",
            b"9 path=b\n\0",
            b"999999999 path=b\n",
            b"\n",
        ):
            self.assertRefused(stream(raw_pax(content), file("a")), "an extended header that is")

    def test_extensions_are_bounded(self) -> None:
        """An extended header over 64 KiB, or of a negative size, is refused unread."""
        for kind in (b"L", b"x", b"g"):
            for size in (b"%011o\0" % 65_537, b"\x80" + bytes(7) + b"\xff" * 4, b"\xff" * 12):
                self.assertRefused(stream(header("a", kind, size)), "an extended header of")

    def test_damaged_headers(self) -> None:
        """A header with a wrong checksum is reported as damage, and not taken for the end."""
        good = stream(file("a", b"b"), file("c"))
        for offset in (0, 110, 130, 150, 156, 300, 2 * BLOCK, 3 * BLOCK - 1):
            bad = bytearray(good)
            bad[offset] ^= 1
            self.assertRefused(bytes(bad), "damaged")

    def test_truncation(self) -> None:
        """A stream that ends before its two zero blocks are complete is refused."""
        good = stream(folder("a"), pax({"mtime": "1.5"}), file("a/b", b"c" * 700))
        for length in range(0, len(good), 7):
            self.assertRefused(good[:length], f"ends too early, at byte {length}")

    @examples(200)
    @given(st.data())
    def test_any_bytes(self, data: st.DataObject) -> None:
        """With any content of a header's fields, the stream is read or refused."""
        field = st.binary(max_size=12)
        block = header(
            data.draw(field),
            data.draw(st.sampled_from([b"0", b"5", b"L", b"x", b"g"]) | st.binary(max_size=1)),
            data.draw(st.integers(0, 600) | field),
            magic=data.draw(st.sampled_from([GNU, b"ustar\x0000"]) | st.binary(max_size=8)),
            prefix=data.draw(field),
        )
        content = data.draw(st.binary(max_size=600))
        try:
            read(stream(block, padded(content), file("b")))
        except ArchiveRefused as error:
            self.assertTrue(str(error).isprintable())


class QuotedTests(SynchronousTestCase):
    """Names from an archive reach the log."""

    def test_harmless(self) -> None:
        """Control characters are escaped, and a long name is cut."""
        self.assertEqual(quoted("a\n\x1b[2J\u202e"), r"'a\n\x1b[2J\u202e'")
        self.assertEqual(quoted("a" * 81), f"'{'a' * 80}'...")
        self.assertEqual(quoted(b"\xff"), r"b'\xff'")
