"""Each archive of a hostile corpus is refused, and leaves no files."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.decompress import Decompress, fastest, with_stdlib
from opq_twisted.archive.extract import child
from opq_twisted.archive.extract.child import REFUSED
from opq_twisted.archive.extract.unpack import unpack, validate
from opq_twisted.box.install.processes import ProcessRunner
from opq_twisted.box.install.unpacker import Unpacker
from opq_twisted.common.errors import ArchiveRefused
from tests.helpers.archives import file, layout, stream, write_archive
from tests.helpers.child_processes import ChildrenCase
from tests.helpers.hostile_archives import (
    BOMB_LIMIT,
    BOMBS,
    HARMLESS,
    HOSTILE,
    TOO_MANY,
    VERSION,
    Hostile,
)
from tests.helpers.torture import sample, stride
from tests.helpers.unpacking import ARCHIVE, UnpackCase, unpack_command

REFUSAL = f"{ARCHIVE} is refused: "
MIB = 1 << 20

#: Far more than there is on any disk: an archive is vetted then, and nothing is written.
NO_ROOM_AT_ALL = 1 << 60

#: Runs a program, and tells the highest number of KiB that it or a child of it took.
MEASURE = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


def is_plain(path: Path) -> bool:
    """Whether a path is a regular file or a folder with one of the two modes."""
    mode = path.lstat().st_mode
    kinds = {stat.S_IFREG: (0o644, 0o755), stat.S_IFDIR: (0o755,)}
    return stat.S_IMODE(mode) in kinds.get(stat.S_IFMT(mode), ())


class FunctionTests(UnpackCase):
    """The corpus and the function that unpacks."""

    def unpack(self, decompress: Decompress) -> None:
        unpack(
            self.archive,
            self.destination,
            VERSION,
            limit=BOMB_LIMIT,
            reserve=0,
            decompress=decompress,
        )

    def assertAllRefused(self, corpus: dict[str, Hostile], *decompress: Decompress) -> None:
        for name, hostile in corpus.items():
            self.archive.write_bytes(hostile.build())
            for each in decompress:
                with self.assertRaises(ArchiveRefused, msg=name) as caught:
                    self.unpack(each)
                self.assertSentence(name, hostile, str(caught.exception))
                self.assertEqual(os.listdir(self.place), [ARCHIVE], name)
                # The check without unpacking has the same result.
                with self.archive.open("rb", buffering=0) as file:
                    checked = self.assertRaises(
                        *(ArchiveRefused, validate, file, VERSION),
                        limit=BOMB_LIMIT,
                        decompress=each,
                    )
                self.assertEqual(str(checked), str(caught.exception))
        self.assertEqual(os.listdir(self.root), ["place"])

    def assertSentence(self, name: str, hostile: Hostile, sentence: str) -> None:
        self.assertTrue(sentence.startswith(REFUSAL), (name, sentence))
        self.assertIn(hostile.reason, sentence, name)
        self.assertTrue(sentence.isprintable(), (name, sentence))

    def test_hostile(self) -> None:
        """Each archive is refused with its reason, by each decompressor."""
        self.assertAllRefused(HOSTILE, fastest, with_stdlib)

    def test_bombs(self) -> None:
        """Bombs are refused when the limit is reached."""
        self.assertAllRefused(BOMBS, fastest, with_stdlib)

    def test_harmless(self) -> None:
        """An odd but harmless archive is unpacked to regular files and folders."""
        for name, odd in HARMLESS.items():
            self.archive.write_bytes(odd.build())
            destination = self.place / name
            unpack(self.archive, destination, VERSION, reserve=0)
            with self.archive.open("rb", buffering=0) as file:
                validate(file, VERSION)
            self.assertEqual(stat.S_IMODE((destination / odd.path).stat().st_mode), odd.mode, name)
            for path in destination.rglob("*"):
                self.assertTrue(is_plain(path), (name, path))


class ChildTests(ChildrenCase):
    """The corpus and the process that the agent starts."""

    timeout = 300

    def prepare(self) -> None:
        self.archive = self.root / ARCHIVE
        self.unpacker = Unpacker(ProcessRunner(self.clock, self.children), self.root / "unpacked")

    def unpack(self) -> Deferred[None]:
        archive = self.archive.open("rb")
        self.addCleanup(archive.close)
        return Deferred.fromCoroutine(self.unpacker.unpack(archive, VERSION))

    async def test_hostile(self) -> None:
        """Each archive is refused with its reason, and leaves no files."""
        for name, hostile in sample([*HOSTILE.items()], 15):
            self.archive.write_bytes(hostile.build())
            with self.assertRaises(ArchiveRefused, msg=name) as caught:
                await self.unpack()
            sentence = str(caught.exception)
            self.assertTrue(sentence.startswith(REFUSAL), (name, sentence))
            self.assertIn(hostile.reason, sentence, name)
            self.assertEqual(os.listdir(self.root), [ARCHIVE], name)

    async def test_harmless(self) -> None:
        """An odd but harmless archive is unpacked, and its files belong to the agent's user."""
        for name, odd in sample([*HARMLESS.items()], 8):
            self.archive.write_bytes(odd.build())
            await self.unpack()
            found = self.unpacker.folder / odd.path
            self.assertEqual(stat.S_IMODE(found.stat().st_mode), odd.mode, name)
            for path in self.unpacker.folder.rglob("*"):
                self.assertTrue(is_plain(path), (name, path))
                self.assertEqual(path.stat().st_uid, os.geteuid())

    async def test_many_members(self) -> None:
        """An archive with 5,000 members is unpacked, under torture one with 50,000."""
        count = 50_000 // stride(10)
        members = b"".join(file(f"{number % 100}/{number}") for number in range(count))
        write_archive(self.archive, stream(*layout(VERSION), members))
        # In memory where that is possible, as most disks are slow with so many files.
        memory = Path("/dev/shm")
        place = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else self.root))
        self.addCleanup(shutil.rmtree, place)
        self.patch(child, "RESERVE", 0)
        self.patch(self.unpacker, "folder", place / "unpacked")
        await self.unpack()
        found = [*self.unpacker.folder.rglob("*")]
        self.assertEqual(len(found), count + 102)
        self.assertEqual({path.stat().st_uid for path in found}, {os.geteuid()})


class MemoryTests(SynchronousTestCase):
    """The memory that the process needs, with lbzip2 and without."""

    def setUp(self) -> None:
        self.place = Path(self.mktemp())
        self.place.mkdir()

    def measure(self, content: bytes, path: str, *options: str) -> tuple[int, str, int]:
        """Return the exit status, the sentence, and the peak of the resident memory in bytes."""
        archive, destination = self.place / ARCHIVE, self.place / "unpacked"
        archive.write_bytes(content)
        # A process begins with its parent's peak, and that of a test run is high.
        with archive.open() as standard_input:
            done = subprocess.run(
                [sys.executable, "-c", MEASURE, *unpack_command(destination), *options],
                stdin=standard_input,
                env={**os.environ, "PATH": path},
                capture_output=True,
                text=True,
                check=False,
            )
        self.assertFalse(destination.exists())
        return done.returncode, done.stderr, int(done.stdout) * 1024

    def test_bounded(self) -> None:
        """Bombs and archives with the largest number of members need less than 200 MiB."""
        corpus = BOMBS | TOO_MANY
        for name, path in sample([*product(corpus, (os.environ["PATH"], "/nowhere"))], 6):
            limit, reserve = f"--limit={BOMB_LIMIT}", f"--reserve={NO_ROOM_AT_ALL}"
            status, sentence, peak = self.measure(corpus[name].build(), path, limit, reserve)
            self.assertEqual(status, REFUSED, name)
            self.assertIn(corpus[name].reason, sentence, name)
            self.assertLess(peak, 200 * MIB, name)
