"""Archives are unpacked by a child process, which leaves nothing behind if it fails."""

import contextlib
import errno
import io
import os
import sys

from twisted.internet.defer import CancelledError, Deferred

from opq_twisted.archive.extract import child
from opq_twisted.archive.extract import unpack as unpack_module
from opq_twisted.box.install.processes import TERMINATION_GRACE, ProcessRunner
from opq_twisted.box.install.unpacker import Unpacker
from opq_twisted.common.errors import ArchiveRefused, BoxUnfit, NoRoom, OpqError
from tests.helpers.archives import file, layout, make_archive, stream, write_archive
from tests.helpers.box_fakes import NEW, NEWER
from tests.helpers.child_processes import ChildrenCase


class UnpackerTests(ChildrenCase):
    """Real child processes."""

    def prepare(self) -> None:
        self.archive = self.root / f"opq-box-update-{NEW}.tar.bz2"
        self.unpacker = Unpacker(ProcessRunner(self.clock, self.children), self.root / "unpacked")

    def unpack(self) -> Deferred[None]:
        archive = self.archive.open("rb")
        self.addCleanup(archive.close)
        return Deferred.fromCoroutine(self.unpacker.unpack(archive, NEW))

    def let_the_child_hang(self) -> None:
        """Let the child wait for ever."""
        make_archive(self.archive, NEW)
        interpreter = self.root / "python"
        interpreter.write_text("#!/bin/sh\nexec sleep 1000\n")
        interpreter.chmod(0o755)
        self.patch(sys, "executable", str(interpreter))

    async def refusal(self, kind: type[OpqError], code: str = "") -> str:
        with self.assertRaises(kind) as caught:
            await self.unpack()
        self.assertFalse(self.unpacker.folder.exists())
        self.assertEqual(caught.exception.code, code or kind.code)
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
        """Unpacked files belong to the agent alone, with the modes of an update."""
        make_archive(self.archive, NEW, {"a/b/c": b"x"})
        await self.unpack()
        found = [self.unpacker.folder, *self.unpacker.folder.rglob("*")]
        owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in found}
        self.assertEqual(owners, {(os.geteuid(), os.getegid())})
        self.assertEqual({path.lstat().st_mode & 0o7777 for path in found}, {0o755, 0o644})

    async def test_replaces(self) -> None:
        """The remains of an earlier attempt are removed first."""
        self.unpacker.folder.mkdir()
        (self.unpacker.folder / "left").write_bytes(b"over")
        make_archive(self.archive, NEW)
        await self.unpack()
        found = {path.name for path in self.unpacker.folder.iterdir()}
        self.assertEqual(found, {"VERSION", "install_update.sh"})

    async def test_refused(self) -> None:
        """A refusal has the sentence of the child."""
        write_archive(self.archive, stream(*layout(NEW), file("../evil")))
        self.assertEqual(
            await self.refusal(ArchiveRefused),
            f"{self.archive.name} is refused: '../evil' has '..' in its path.",
        )

    async def test_another_version(self) -> None:
        """An archive with another release than its name says is refused."""
        make_archive(self.archive, NEWER)
        self.assertIn("is refused", await self.refusal(ArchiveRefused))

    async def test_damaged(self) -> None:
        """A damaged archive is refused, even if its beginning is good."""
        make_archive(self.archive, NEW, {"data": os.urandom(300_000)})
        content = bytearray(self.archive.read_bytes())
        content[len(content) // 2] ^= 1
        self.archive.write_bytes(content)
        self.assertIn("is refused", await self.refusal(ArchiveRefused))

    async def test_not_the_archive(self) -> None:
        """Without memory or a process, or when the child is killed, no archive is to blame."""
        make_archive(self.archive, NEW)
        interpreter = self.root / "python"
        interpreter.write_text("#!/bin/sh\nkill -9 $$\n")
        interpreter.chmod(0o755)
        with self.subTest(end="killed"):
            self.patch(sys, "executable", str(interpreter))
            sentence = await self.refusal(BoxUnfit, "busy")
            self.assertEqual(sentence, "The unpacking was ended by SIGKILL.")
        with self.subTest(end="failed"):
            interpreter.write_text(
                "#!/bin/sh\necho It could not be read: Input/output error. >&2\nexit 1\n"
            )
            self.assertIn("Input/output error", await self.refusal(BoxUnfit, "disk"))
        with self.subTest(end="never began"):

            def spawn(*args: object, **kwargs: object) -> None:
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

            self.patch(self.children, "spawnProcess", spawn)
            self.assertIn("cannot start the unpacking", await self.refusal(BoxUnfit, "busy"))

    def test_too_little_memory(self) -> None:
        """An archive cannot exceed its limits, so a lack of memory is not its fault."""

        def fail(_: object) -> None:
            raise MemoryError

        self.patch(unpack_module, "_unpack_stdin", fail)
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            status = unpack_module.main([str(NEW)])
        self.assertNotIn(status, (0, child.REFUSED, child.NO_ROOM))
        self.assertIn("could not be unpacked: there is too little memory.", said.getvalue())

    async def test_no_room(self) -> None:
        """When the disk has too little room, the archive is not to blame."""
        self.patch(child, "RESERVE", 1 << 60)
        make_archive(self.archive, NEW)
        self.assertIn("make room, then try again", await self.refusal(NoRoom))

    async def test_what_was_verified(self) -> None:
        """The open file is unpacked from its beginning, whatever its name leads to."""
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
        """A file that cannot be read from its beginning is not a hostile archive."""
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
        """A child that hangs is ended, and the error says so."""
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
        """Files of a script are removed, even deeply nested folders."""
        folder = str(self.unpacker.folder)
        for _ in range(1500):
            os.mkdir(folder)
            folder = os.path.join(folder, "d")
        await self.unpacker.clear()
        self.assertFalse(self.unpacker.folder.exists())

    async def test_clear(self) -> None:
        """An empty or missing folder can be cleared."""
        await self.unpacker.clear()
        make = self.unpacker.folder / "a" / "b"
        make.mkdir(parents=True)
        await self.unpacker.clear()
        self.assertFalse(self.unpacker.folder.exists())
