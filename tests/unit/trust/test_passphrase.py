"""Tests of the file of a passphrase, which `opq-release` and the server read."""

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.common.errors import KeyUnusable
from opq_twisted.trust.passphrase import read_passphrase, warning_about_access, warning_about_length


class ReadTests(SynchronousTestCase):
    """The passphrase in a file."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()

    def refuses(self, *words: str) -> None:
        sentence = str(self.assertRaises(KeyUnusable, read_passphrase, self.path))
        for word in (str(self.path), *words):
            self.assertIn(word, sentence)

    def test_first_line(self) -> None:
        """It is the first line with any line ending, with its spaces and any bytes."""
        for content, passphrase in (
            (b"open sesame", b"open sesame"),
            (b"open sesame\n", b"open sesame"),
            (b"open sesame\r\n", b"open sesame"),
            (b"open sesame\n# of the update server\n", b"open sesame"),
            (b"open sesame\r\nmore\r\n", b"open sesame"),
            (b"\xef\xbb\xbfopen sesame\r\n", b"open sesame"),
            (b" open sesame \n\n", b" open sesame "),
            (b"m\xfcll\x00\n", b"m\xfcll\x00"),
            (b"x" * 4096, b"x" * 4096),
        ):
            self.path.write_bytes(content)
            self.assertEqual(read_passphrase(self.path), passphrase)

    def test_none(self) -> None:
        """An empty first line is no passphrase."""
        for content in (b"", b"\n", b"\r\n", b"\xef\xbb\xbf\n", b"\nopen sesame\n"):
            self.path.write_bytes(content)
            self.refuses("first line", "empty")

    def test_too_long(self) -> None:
        """A passphrase that is too long is refused, and not cut off."""
        self.path.write_bytes(b"x" * 4097)
        self.refuses("4096 bytes")
        os.truncate(self.path, 1 << 30)
        self.refuses("more than 65536 bytes")

    def test_no_file(self) -> None:
        """A file that is not regular does not block."""
        self.refuses("No such file")
        os.mkfifo(self.path)
        self.refuses("not a regular file")
        self.path.unlink()
        self.path.mkdir()
        self.refuses("Is a directory")


class WarningTests(SynchronousTestCase):
    """Warnings about a valid passphrase."""

    def test_access(self) -> None:
        """There is a warning if other users can read it; the group may."""
        path = Path(self.mktemp())
        self.assertIsNone(warning_about_access(path))
        path.touch()
        for mode, is_open in ((0o644, True), (0o444, True), (0o440, False), (0o600, False)):
            path.chmod(mode)
            self.assertEqual(warning_about_access(path) is not None, is_open)

    def test_length(self) -> None:
        """There is a warning below 15 characters, not bytes; an empty one is refused elsewhere."""
        self.assertIn("has 14 characters", str(warning_about_length(("\u00fc" * 14).encode())))
        for passphrase in (b"", b"x" * 15, ("\u00fc" * 15).encode()):
            self.assertIsNone(warning_about_length(passphrase))
