"""Archives are unpacked by a child process, of which nothing stays when it is refused or killed."""

import mmap
import os
import shutil
import stat
import sys
from pathlib import Path
from unittest import SkipTest

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box import unpacker
from opq_twisted.box.processes import TERMINATION_GRACE, Programs
from opq_twisted.box.unpacker import Unpacker, adopt
from opq_twisted.errors import ArchiveRefused, NoRoom, OpqError
from opq_twisted.release.confine import UNPRIVILEGED
from opq_twisted.release.vetting import MAX_DEPTH
from tests.archives import file, layout, make_archive, stream, write_archive
from tests.fakes import NEW, NEWER, ChildrenCase
from tests.test_unpack import needs_root


class UnpackerTests(ChildrenCase):
    """What real children make of archives."""

    def prepare(self) -> None:
        self.archive = self.root / f"opq-box-update-{NEW}.tar.bz2"
        self.unpacker = Unpacker(Programs(self.clock, self.children), self.root / "unpacked")

    def unpack(self) -> Deferred[None]:
        archive = self.archive.open("rb")
        self.addCleanup(archive.close)
        return Deferred.fromCoroutine(self.unpacker.unpack(archive, NEW))

    def let_the_child_hang(self) -> None:
        """Let the child wait for what never comes."""
        make_archive(self.archive, NEW)
        interpreter = self.root / "python"
        interpreter.write_text("#!/bin/sh\nexec sleep 1000\n")
        interpreter.chmod(0o755)
        self.patch(sys, "executable", str(interpreter))

    async def refusal(self, kind: type[Exception]) -> str:
        with self.assertRaises(kind) as caught:
            await self.unpack()
        self.assertFalse(self.unpacker.folder.exists())
        sentence = str(caught.exception)
        self.assertNotIn("\n", sentence)
        return sentence

    async def test_good(self) -> None:
        """A good archive is unpacked, without its top-level folder."""
        make_archive(self.archive, NEW, {"box-configuration-daemon/agent.py": b"x"})
        await self.unpack()
        found = {path.name for path in self.unpacker.folder.iterdir()}
        self.assertEqual(found, {"VERSION", "install_update.sh", "box-configuration-daemon"})

    async def test_owner(self) -> None:
        """What was unpacked belongs to the agent, whoever unpacked it, with an update's modes."""
        make_archive(self.archive, NEW, {"a/b/c": b"x"})
        await self.unpack()
        found = [self.unpacker.folder, *self.unpacker.folder.rglob("*")]
        owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in found}
        self.assertEqual(owners, {(os.geteuid(), os.getegid())})
        self.assertEqual({path.lstat().st_mode & 0o7777 for path in found}, {0o755, 0o644})

    async def test_not_adopted(self) -> None:
        """What root cannot adopt is removed, with the reason."""
        needs_root()
        self.patch(unpacker, "MAX_MEMBERS", 1)
        make_archive(self.archive, NEW)
        self.assertIn("more files than", await self.refusal(ArchiveRefused))

    async def test_replaces(self) -> None:
        """What an earlier attempt left is not mixed with what is unpacked now."""
        self.unpacker.folder.mkdir()
        (self.unpacker.folder / "left").write_bytes(b"over")
        make_archive(self.archive, NEW)
        await self.unpack()
        found = {path.name for path in self.unpacker.folder.iterdir()}
        self.assertEqual(found, {"VERSION", "install_update.sh"})

    async def test_refused(self) -> None:
        """A refusal has the child's own sentence."""
        write_archive(self.archive, stream(*layout(NEW), file("../evil")))
        self.assertEqual(
            await self.refusal(ArchiveRefused),
            f"{self.archive.name} is refused: '../evil' has '..' in its path.",
        )

    async def test_another_version(self) -> None:
        """An archive that holds another release than its name says is refused."""
        make_archive(self.archive, NEWER)
        self.assertIn("is refused", await self.refusal(ArchiveRefused))

    async def test_damaged(self) -> None:
        """A damaged archive is refused, though what came before the damage was good."""
        make_archive(self.archive, NEW, {"data": os.urandom(300_000)})
        content = bytearray(self.archive.read_bytes())
        content[len(content) // 2] ^= 1
        self.archive.write_bytes(content)
        self.assertIn("is refused", await self.refusal(ArchiveRefused))

    async def test_no_room(self) -> None:
        """When the disk has too little room, the archive is not to blame."""
        self.patch(unpacker, "RESERVE", 1 << 60)
        make_archive(self.archive, NEW)
        self.assertIn("make room, then try again", await self.refusal(NoRoom))

    async def test_what_was_verified(self) -> None:
        """The file that was opened is unpacked, from its beginning, whatever has its name now."""
        make_archive(self.archive, NEW)
        with self.archive.open("rb") as archive:
            archive.read()
            self.archive.unlink()
            write_archive(self.archive, stream(*layout(NEW), file("../evil")))
            await self.unpacker.unpack(archive, NEW)
            self.assertFalse(archive.closed)
        found = {path.name for path in self.unpacker.folder.iterdir()}
        self.assertEqual(found, {"VERSION", "install_update.sh"})

    async def test_no_file(self) -> None:
        """What cannot be read from its beginning is no hostile archive."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, writing)
        with self.assertRaises(OpqError) as caught, os.fdopen(reading, "rb") as archive:
            await self.unpacker.unpack(archive, NEW)
        self.assertNotIsInstance(caught.exception, ArchiveRefused)
        self.assertIn("could not be unpacked", str(caught.exception))
        self.assertNotIn("Traceback", str(caught.exception))
        self.assertFalse(self.unpacker.folder.exists())

    async def test_cancelled(self) -> None:
        """When the agent stops, the child is killed."""
        self.let_the_child_hang()
        unpacking = self.unpack()
        await self.children.wait("started")
        unpacking.cancel()
        self.failureResultOf(unpacking, CancelledError)
        await self.children.wait("ended")

    async def test_hangs(self) -> None:
        """A child that hangs is ended, and that is told in a sentence."""
        self.let_the_child_hang()
        unpacking = self.unpack()
        await self.children.wait("started")
        self.clock.advance(1800)
        await self.children.wait("ended")
        self.clock.advance(TERMINATION_GRACE)
        with self.assertRaises(OpqError) as caught:
            await unpacking
        self.assertNotIsInstance(caught.exception, ArchiveRefused)
        self.assertFalse(self.unpacker.folder.exists())

    async def test_deep(self) -> None:
        """What a script has left there is removed, be it folders in folders."""
        folder = str(self.unpacker.folder)
        for _ in range(1500):
            os.mkdir(folder)
            folder = os.path.join(folder, "d")
        await self.unpacker.clear()
        self.assertFalse(self.unpacker.folder.exists())

    async def test_clear(self) -> None:
        """There may be nothing to clear."""
        await self.unpacker.clear()
        make = self.unpacker.folder / "a" / "b"
        make.mkdir(parents=True)
        await self.unpacker.clear()
        self.assertFalse(self.unpacker.folder.exists())


class AdoptTests(SynchronousTestCase):
    """Root trusts nothing that its unpacker left: an archive may have taken it over."""

    def setUp(self) -> None:
        needs_root()
        self.root = Path(self.mktemp())
        self.folder = self.root / "unpacked"
        self.script = self.folder / "a" / "script"
        self.make()

    def make(self) -> None:
        """What a sound child leaves."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.script.parent.mkdir(parents=True)
        self.script.write_bytes(b"x")
        self.script.chmod(0o755)
        self.give(self.folder, self.script.parent, self.script)

    def give(self, *paths: Path) -> None:
        for path in paths:
            os.lchown(path, UNPRIVILEGED, UNPRIVILEGED)

    def assertRefused(self, reason: str) -> None:
        error = self.assertRaises(ArchiveRefused, adopt, self.folder)
        self.assertIn(f"the process that unpacks it {reason}", str(error))
        self.make()

    def test_sound(self) -> None:
        """Files and folders become root's, and keep their modes."""
        adopt(self.folder)
        for path in (self.folder, self.script.parent, self.script):
            status = path.stat()
            self.assertEqual(
                (status.st_uid, status.st_gid, status.st_mode & 0o7777), (0, os.getegid(), 0o755)
            )

    def test_kinds(self) -> None:
        """Links, FIFOs, sockets and devices are refused, and neither followed nor waited for."""
        odd = self.script.parent / "odd"
        for make in (
            lambda: odd.symlink_to("/etc/passwd"),
            lambda: odd.symlink_to("script"),
            lambda: odd.symlink_to("/nowhere"),
            lambda: os.mkfifo(odd),
            lambda: os.mknod(odd, 0o644 | stat.S_IFSOCK),
            lambda: os.mknod(odd, 0o644 | stat.S_IFCHR, os.makedev(1, 3)),
        ):
            try:
                make()
            except PermissionError as error:
                raise SkipTest(f"NOT TESTED: no devices can be made here: {error}") from error
            self.give(odd)
            self.assertRefused("makes what is neither a file nor a folder")
        self.assertEqual(Path("/etc/passwd").stat().st_uid, 0)

    def test_second_name(self) -> None:
        """A file that has another name somewhere is refused."""
        os.link(self.script, self.root / "elsewhere")
        self.assertRefused("leaves a file with a second name")

    def test_owner(self) -> None:
        """What belongs to another user is refused, and stays that user's."""
        for path in (self.script, self.script.parent, self.folder):
            os.chown(path, 1, 1)
            error = self.assertRaises(ArchiveRefused, adopt, self.folder)
            self.assertIn("what is not its own", str(error))
            self.assertEqual(path.stat().st_uid, 1)
            self.make()

    def test_modes(self) -> None:
        """No mode but those of an update."""
        for mode in (0o4755, 0o2755, 0o1755, 0o777, 0o666, 0o600, 0o700, 0):
            self.script.chmod(mode)
            self.assertRefused("leaves what an update cannot hold")
        for mode in (0o1755, 0o2755, 0o777, 0o700, 0o644):
            for folder in (self.script.parent, self.folder):
                folder.chmod(mode)
                self.assertRefused("leaves what an update cannot hold")

    def test_still_written(self) -> None:
        """A file is refused while somebody may still write to it, by descriptor or by memory."""
        with self.script.open("r+b") as file:
            self.assertRaises(ArchiveRefused, adopt, self.folder)
            memory = mmap.mmap(file.fileno(), 1)
        self.give(self.folder, self.script.parent, self.script)
        with memory:
            self.assertRefused("still writes to a file")
        with self.script.open("rb"):
            adopt(self.folder)

    def test_depth(self) -> None:
        """Folders may lie as deep as an update's, and no deeper."""
        deepest = self.folder
        for _ in range(MAX_DEPTH):
            deepest /= "d"
            deepest.mkdir()
            self.give(deepest)
        adopt(self.folder)
        self.make()
        deeper = deepest / "d"
        deeper.mkdir(parents=True)
        self.give(*self.folder.rglob("d"))
        self.assertRefused("makes folders deeper")

    def test_number(self) -> None:
        """There may be as many files and folders as in an update, and no more."""
        self.patch(unpacker, "MAX_MEMBERS", 2)
        adopt(self.folder)
        self.make()
        self.patch(unpacker, "MAX_MEMBERS", 1)
        self.assertRefused("makes more files")

    def test_replaced(self) -> None:
        """The folder itself is no link."""
        self.folder.rename(self.root / "moved")
        self.folder.symlink_to("moved")
        self.assertRaises(OSError, adopt, self.folder)
        self.assertEqual((self.root / "moved").stat().st_uid, UNPRIVILEGED)
