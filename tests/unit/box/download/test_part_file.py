"""A part file is continued only from bytes that were certainly synced."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.download.part_file import (
    MAX_UNSYNCED,
    SYNC_EVERY,
    Part,
    is_joined,
    record_path,
)
from opq_twisted.box.download.verify import Content

URL = "http://updates.example:8151/file"
SIGNED = Content(10_000_000, {"sha256": "ab" * 32})


class PartTests(SynchronousTestCase):
    """A part file, and its continuation by another run."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()) / "file.part"
        self.path.parent.mkdir()
        self.confirmed = 0
        real = os.fdatasync

        def fdatasync(fd: int) -> None:
            real(fd)
            self.confirmed = os.fstat(fd).st_size

        self.patch(os, "fdatasync", fdatasync)

    def part(self, expected: Content = SIGNED) -> Part:
        part = Part(self.path, URL, expected, execute)
        self.addCleanup(part._close_fd)
        return part

    def begun(self) -> Part:
        part = self.part()
        part.begin(SIGNED, '"one"')
        return part

    def resumed(self) -> Part:
        part = self.part()
        part.resume()
        return part

    def cut_power(self, length: int) -> None:
        """Leave the synced bytes on the disk, followed by zeros up to a length."""
        with self.path.open("r+b") as file:
            file.truncate(self.confirmed)
            file.truncate(length)

    def fill(self, part: Part, size: int) -> None:
        """Write as a download does."""
        while part.size < size:
            part.write(os.urandom(min(65_536, size - part.size)))
            if part.sync_due:
                part.sync()

    def test_truncated(self) -> None:
        """Truncated bytes count as unsynced, even if their sync ends later."""
        threads: list[Deferred[None]] = []

        def later(function: Callable[..., Any], *args: Any) -> Deferred[None]:
            function(*args)
            threads.append(Deferred())
            return threads[-1]

        part = Part(self.path, URL, SIGNED, later)
        self.addCleanup(part._close_fd)
        part.begin(SIGNED, None)
        part.write(b"a" * 1000)
        part.write(b"b" * 200_000)
        part.sync()
        part.truncate(1000)
        threads.pop().callback(None)
        self.assertEqual((part.size, self.path.read_bytes()), (1000, b"a" * 1000))
        self.confirmed = 0
        # As much may be written ahead of the disk as ever, and no more.
        part.write(b"c" * (MAX_UNSYNCED - 1000))
        self.assertEqual(self.confirmed, 0)
        part.write(b"c")
        self.assertEqual(self.confirmed, MAX_UNSYNCED)
        part.truncate(0)
        self.assertEqual(list(self.path.parent.iterdir()), [])

    def test_joined(self) -> None:
        """The record says that responses are joined before their bytes are written."""
        part = self.begun()
        self.assertFalse(is_joined(self.path))
        part.join()
        self.assertTrue(is_joined(self.path))
        part.write(b"a" * 1000)
        part.close()
        self.assertEqual(self.resumed().size, 1000)
        self.assertTrue(is_joined(self.path))
        self.begun()
        self.assertFalse(is_joined(self.path))

    def test_power_cut(self) -> None:
        """
        Whatever was not on the disk is not believed, and at most 1 MB comes twice.

        The length that is found may be any between what was confirmed and what was written.
        """
        for written in (1, MAX_UNSYNCED - 1, MAX_UNSYNCED, MAX_UNSYNCED + 1, 999_999, 3_141_592):
            for fraction in (0, 0.3, 1):
                with self.subTest(written=written, fraction=fraction):
                    self.confirmed = 0
                    part = self.begun()
                    self.fill(part, written)
                    whole = self.path.read_bytes()
                    self.cut_power(
                        self.confirmed + int(fraction * (written - self.confirmed)),
                    )
                    part._close_fd()
                    part = self.resumed()
                    self.assertEqual(self.path.read_bytes(), whole[: part.size])
                    self.assertLessEqual(part.size, self.confirmed)
                    self.assertGreaterEqual(part.size, written - 1_000_000)
                    part.remove()

    def test_second_power_cut(self) -> None:
        """The same holds for the bytes that a continued download adds."""
        part = self.begun()
        self.fill(part, 2_000_000)
        part._close_fd()
        part = self.resumed()
        self.fill(part, part.size + SYNC_EVERY - 1)
        whole = self.path.read_bytes()
        part._close_fd()
        with self.path.open("r+b") as file:
            file.truncate(2_000_000 - MAX_UNSYNCED)
            file.truncate(len(whole))
        part = self.resumed()
        self.assertEqual(self.path.read_bytes(), whole[: part.size])

    def test_large_pieces(self) -> None:
        """The unsynced bytes never exceed their limit, however large the pieces are."""
        part = self.begun()
        lengths: list[int] = []
        confirm = os.fdatasync

        def fdatasync(fd: int) -> None:
            lengths.append(os.fstat(fd).st_size - self.confirmed)
            confirm(fd)

        self.patch(os, "fdatasync", fdatasync)
        part.write(bytes(3 * MAX_UNSYNCED + 1))
        self.assertEqual(lengths, [MAX_UNSYNCED] * 3)
        self.assertEqual(part.size, 3 * MAX_UNSYNCED + 1)

    def test_closed(self) -> None:
        """After an orderly end, all bytes are used."""
        for size in (1, 1_234_567):
            with self.subTest(size=size):
                part = self.begun()
                self.fill(part, size)
                part.close()
                self.assertEqual(self.confirmed, size)
                self.assertEqual(self.resumed().size, size)

    def test_closed_early(self) -> None:
        """Bytes that are added later, without an orderly end, are used up to the limit."""
        part = self.begun()
        self.fill(part, 100)
        part.close()
        part = self.resumed()
        self.fill(part, 200)
        part._close_fd()
        self.assertEqual(self.resumed().size, 100)
        self.assertEqual(self.path.stat().st_size, 100)

    def test_late_confirmation(self) -> None:
        """A sync of an earlier file does not count for this one."""
        threads: list[Deferred[None]] = []

        def in_thread(function: Callable[..., Any], *args: Any) -> Deferred[None]:
            function(*args)
            threads.append(Deferred())
            return threads[-1]

        part = Part(self.path, URL, SIGNED, in_thread)
        part.begin(SIGNED, None)
        part.write(bytes(MAX_UNSYNCED))
        part.sync()
        part.begin(SIGNED, None)
        threads.pop().callback(None)
        part.write(b"x")
        self.confirmed = 0
        part.close()
        self.assertEqual(self.confirmed, 1)

    def test_record_first(self) -> None:
        """The record is written before the first byte."""
        part = self.begun()
        record = json.loads(record_path(self.path).read_text())
        self.assertEqual(record["etag"], '"one"')
        self.assertEqual(record["content"], {"size": SIGNED.size, "hashes": dict(SIGNED.hashes)})
        self.assertEqual(part.size, 0)
        self.assertEqual(part.etag, '"one"')

    def test_begun_again(self) -> None:
        """A part file never has the record of another."""
        part = self.begun()
        self.fill(part, 1_000_000)
        part.close()
        real = os.replace
        seen: list[int] = []

        def replace(*args: Any) -> None:
            seen.append(self.path.stat().st_size)
            real(*args)

        part = self.resumed()
        self.patch(os, "replace", replace)
        part.begin(SIGNED, '"two"')
        self.assertEqual(seen, [0] * len(seen))
        self.assertEqual(self.path.stat().st_size, 0)

    def test_not_believed(self) -> None:
        """A file that is no part file, or has no readable record, is removed."""
        self.fill(part := self.begun(), 1000)
        part.close()
        good = json.loads(record_path(self.path).read_text())
        for record in (
            None,
            "",
            "garbage",
            "[]",
            json.dumps({**good, "synced": 1001}),
            json.dumps({**good, "synced": -1}),
            json.dumps({**good, "synced": None}),
            json.dumps({**good, "content": {"size": 999, "hashes": good["content"]["hashes"]}}),
            json.dumps({"url": URL}),
            "\0" * 100,
            "[" * 60_000,
        ):
            with self.subTest(record=record):
                self.path.write_bytes(bytes(1000))
                record_path(self.path).unlink(missing_ok=True)
                if record is not None:
                    record_path(self.path).write_text(record)
                self.assertEqual(self.resumed().size, 0)
                self.assertEqual(os.listdir(self.path.parent), [])

    def test_impossible_copied(self) -> None:
        """A record with an impossible number of copied bytes costs no bytes."""
        self.fill(part := self.begun(), 1000)
        part.close()
        good = json.loads(record_path(self.path).read_text())
        for copied, counted in ((-1, 0), (999, 999), (1001, 1000)):
            record_path(self.path).write_text(json.dumps({**good, "copied": copied}))
            resumed = self.resumed()
            self.assertEqual((resumed.size, resumed.copied), (1000, counted))
            resumed.close()

    def test_record_is_fifo(self) -> None:
        """A record that would block its reader is removed with the file."""
        self.begun().close()
        record_path(self.path).unlink()
        os.mkfifo(record_path(self.path))
        self.assertEqual(self.resumed().size, 0)
        self.assertEqual(os.listdir(self.path.parent), [])

    def test_record_alone(self) -> None:
        """A record without a part file is removed."""
        self.begun().close()
        self.path.unlink()
        self.assertEqual(self.resumed().size, 0)
        self.assertEqual(os.listdir(self.path.parent), [])

    def test_not_a_file(self) -> None:
        """A link is not followed, and a FIFO is not waited for."""
        self.begun().close()
        record = record_path(self.path).read_text()
        self.path.unlink()
        os.mkfifo(self.path)
        self.assertEqual(self.resumed().size, 0)
        record_path(self.path).write_text(record)
        self.path.symlink_to("/dev/full")
        with self.assertRaises(OSError):
            self.resumed()
        shutil.rmtree(self.path.parent)
