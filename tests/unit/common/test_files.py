"""Files are opened, read and hashed within bounds, and replaced whole or not at all."""

import errno
import fcntl
import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.common import files
from tests.helpers.failing_disk import counting


def refusing(number: int) -> Callable[..., None]:
    """Return a system call that fails with this error."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


class FolderCase(SynchronousTestCase):
    """An empty folder."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()


class PoorFileSystemTests(FolderCase):
    """A file system without fsync for folders or without locks, such as a shared folder."""

    def test_no_sync(self) -> None:
        """Without fsync, files are written nevertheless."""
        for number in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF):
            self.patch(os, "fsync", refusing(number))
            self.patch(os, "fdatasync", refusing(number))
            files.write(self.folder / "file", b"new")
            files.sync_folder(self.folder)
            with (self.folder / "file").open("ab") as file:
                files.sync(file.fileno(), data_only=True)

    def test_disk_fails(self) -> None:
        """The error of a failing disk is raised."""
        for number in (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EDQUOT):
            self.patch(os, "fsync", refusing(number))
            error = self.assertRaises(OSError, files.sync_folder, self.folder)
            self.assertEqual(error.errno, number)

    def test_locked(self) -> None:
        """Only one process can hold a lock, until it closes the file."""
        path = self.folder / "lock"
        with files.locked(path):
            self.assertRaises(BlockingIOError, files.lock, path)
        with files.locked(path, blocking=True):
            pass

    def test_no_locks(self) -> None:
        """On a file system without locks, locking succeeds."""
        path = self.folder / "lock"
        for number in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            self.patch(fcntl, "flock", refusing(number))
            with files.locked(path):
                self.assertTrue(path.exists())
        self.patch(fcntl, "flock", refusing(errno.EIO))
        self.assertRaises(OSError, files.lock, path)


class LinkNoReplaceTests(FolderCase):
    """The files after `link_no_replace`."""

    def setUp(self) -> None:
        super().setUp()
        self.draft, self.target = self.folder / ".draft", self.folder / "archive"
        self.draft.write_bytes(b"new")

    def test_free(self) -> None:
        """A free name is given to the draft."""
        files.link_no_replace(self.draft, self.target)
        self.assertEqual(self.target.read_bytes(), b"new")

    def test_taken(self) -> None:
        """An existing file keeps its name, also a broken link."""
        self.target.symlink_to("nowhere")
        with self.assertRaises(FileExistsError):
            files.link_no_replace(self.draft, self.target)
        self.assertEqual(os.readlink(self.target), "nowhere")

    def test_no_hard_links(self) -> None:
        """On a file system without hard links the draft is renamed."""

        for number in (errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV):
            self.patch(Path, "hardlink_to", refusing(number))
            files.link_no_replace(self.draft, self.target)
            self.assertEqual(os.listdir(self.folder), ["archive"])
            self.target.rename(self.draft)


class WriteTests(FolderCase):
    """The files after `write`."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.folder / "journal.json"

    def test_new(self) -> None:
        """A new file is written completely, and no other file is left."""
        files.write(self.path, b"new")
        self.assertEqual(self.path.read_bytes(), b"new")
        self.assertEqual(os.listdir(self.folder), ["journal.json"])

    def test_mode(self) -> None:
        """A given mode does not depend on the umask."""
        self.addCleanup(os.umask, os.umask(0o077))
        files.write(self.path, b"new", 0o644)
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o644)

    def test_private(self) -> None:
        """A file for its owner only has that mode from its creation on."""
        self.addCleanup(os.umask, os.umask(0))
        modes = []
        fchmod = os.fchmod

        def look(fd: int, mode: int) -> None:
            modes.append(os.fstat(fd).st_mode & 0o777)
            fchmod(fd, mode)

        self.patch(os, "fchmod", look)
        files.write(self.path, b"new", 0o600)
        self.assertEqual(modes, [0o600])

    def test_replaced(self) -> None:
        """The old file is replaced: a program that has it open still reads the old content."""
        self.path.write_bytes(b"the old content, which is longer")
        with self.path.open("rb") as old:
            files.write(self.path, b"new")
            self.assertEqual(old.read(), b"the old content, which is longer")
        self.assertEqual(self.path.read_bytes(), b"new")

    def test_fails(self) -> None:
        """On a full disk, or after a signal, the old file stays, and the unfinished one goes."""
        self.path.write_bytes(b"old")

        def stop() -> None:
            raise SystemExit(143)

        for failing, kind in ((counting(1), OSError), (counting(1, stop), SystemExit)):
            with failing, self.assertRaises(kind):
                files.write(self.path, b"new")
            self.assertEqual(self.path.read_bytes(), b"old")
            self.assertEqual(os.listdir(self.folder), ["journal.json"])

    def test_planted(self) -> None:
        """A link or a FIFO with the temporary name is neither followed nor opened."""
        victim = self.folder.with_name(f"{self.folder.name}.victim")
        victim.write_bytes(b"a key")
        planted = self.folder / ".journal.json.new"
        for plant in (
            lambda: planted.symlink_to(victim.absolute()),
            lambda: planted.hardlink_to(victim),
            lambda: os.mkfifo(planted),
        ):
            plant()
            files.write(self.path, b"new")
            self.assertEqual(self.path.read_bytes(), b"new")
            self.assertFalse(self.path.is_symlink())
            self.assertEqual(victim.read_bytes(), b"a key")
            self.assertEqual(os.listdir(self.folder), ["journal.json"])

    def test_left_over(self) -> None:
        """The unfinished file of a power cut is replaced."""
        (self.folder / ".journal.json.new").write_bytes(b"half of something much longer")
        files.write(self.path, b"new")
        self.assertEqual(self.path.read_bytes(), b"new")
        self.assertEqual(os.listdir(self.folder), ["journal.json"])

    def test_no_folder(self) -> None:
        """A missing folder raises OSError, like all errors of a disk."""
        with self.assertRaises(FileNotFoundError):
            files.write(self.folder / "gone" / "journal.json", b"new")


class RenameTests(FolderCase):
    """The files after `rename`."""

    def test_rename(self) -> None:
        """The target is replaced, and the source is gone."""
        (self.folder / "a.part").write_bytes(b"new")
        (self.folder / "a").write_bytes(b"old")
        files.rename(self.folder / "a.part", self.folder / "a")
        self.assertEqual((self.folder / "a").read_bytes(), b"new")
        self.assertEqual(os.listdir(self.folder), ["a"])


class HashTests(SynchronousTestCase):
    """`hash_file` against hashlib."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.data = random.Random(1).randbytes(3_000_000)
        self.path.write_bytes(self.data)

    def test_all(self) -> None:
        """Each algorithm gets all bytes, and the position of the descriptor stays."""
        for algorithms in (["sha256"], ["sha256", "sha512", "blake2b"]):
            with files.open_regular(self.path) as file:
                file.seek(5)
                hashes = files.hash_file(file.fileno(), algorithms)
                self.assertEqual(file.tell(), 5)
            expected = {name: hashlib.new(name, self.data).hexdigest() for name in algorithms}
            self.assertEqual(hashes, expected)

    def test_bounded(self) -> None:
        """No byte after the given size is hashed, and each chunk before that is passed on."""
        chunks: list[bytes] = []
        with files.open_regular(self.path) as file:
            hashes = files.hash_file(file.fileno(), ["sha256"], 2_000_000, chunks.append)
        self.assertEqual(b"".join(chunks), self.data[:2_000_000])
        self.assertEqual(hashes["sha256"], hashlib.sha256(self.data[:2_000_000]).hexdigest())

    def test_stopped(self) -> None:
        """An error of `each_chunk` ends the hashing at once."""
        chunks: list[bytes] = []

        def stop(chunk: bytes) -> None:
            chunks.append(chunk)
            raise InterruptedError

        with files.open_regular(self.path) as file, self.assertRaises(InterruptedError):
            files.hash_file(file.fileno(), ["sha256"], each_chunk=stop)
        self.assertEqual(len(chunks), 1)


class ReadTests(SynchronousTestCase):
    """The result of `read`."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def refuses(self, path: Path, reason: str) -> None:
        error = self.assertRaises(OSError, files.read, path, 3)
        self.assertEqual(error.strerror, reason)

    def test_whole(self) -> None:
        """A file of the largest allowed size is read."""
        for content in (b"", b"abc"):
            self.path.write_bytes(content)
            self.assertEqual(files.read(self.path, 3), content)

    def test_too_long(self) -> None:
        """A file with one byte more is refused, and the rest is not read."""
        self.path.write_bytes(b"abcd")
        self.refuses(self.path, "It has more than 3 bytes")
        os.truncate(self.path, 1 << 40)
        self.refuses(self.path, "It has more than 3 bytes")

    def test_not_regular(self) -> None:
        """Files that block or never end are refused."""
        os.mkfifo(self.path)
        self.refuses(self.path, "It is not a regular file")
        self.refuses(Path("/dev/zero"), "It is not a regular file")
        self.refuses(Path("/"), "Is a directory")
        self.refuses(Path("/none"), "No such file or directory")


class InsideTests(FolderCase):
    """A path is below a folder, or a link leads out of it."""

    def test_links(self) -> None:
        """Links are followed, that of the folder too; a link to itself stays where it is."""
        here = self.folder / "here"
        here.mkdir()
        (self.folder / "link").symlink_to("here")
        for name, target in (("in", "file"), ("out", "../file"), ("loop", "loop")):
            (here / name).symlink_to(target)
        for name, inside in (("file", True), ("in", True), ("out", False), ("loop", True)):
            for folder in (here, self.folder / "link"):
                self.assertEqual(files.is_inside(folder / name, folder), inside, name)
        self.assertFalse(files.is_inside(self.folder / "here2", here))
