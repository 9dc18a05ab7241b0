"""An update is checked and unpacked completely, or refused with a reason, leaving no files."""

import bz2
import os
import shutil
import signal
import stat
import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive import decompress
from opq_twisted.archive.decompress import (
    MAX_STREAMS,
    Decompress,
    fastest,
    streams_join,
    with_lbzip2,
    with_stdlib,
)
from opq_twisted.archive.extract.child import NO_ROOM, REFUSED
from opq_twisted.archive.extract.unpack import unpack
from opq_twisted.archive.member_rules import MemberRules
from opq_twisted.archive.tar_reader import Member
from opq_twisted.common.errors import ArchiveRefused, NoRoom
from tests.helpers.archives import (
    SCRIPT,
    concatenated,
    file,
    folder,
    header,
    layout,
    long_name,
    make_archive,
    stream,
    write_archive,
)
from tests.helpers.hostile_archives import NAME, VERSION
from tests.helpers.privileges import lacking, own_mounts
from tests.helpers.torture import stride
from tests.helpers.unpacking import ARCHIVE, Tree, UnpackCase, unpack_command
from tests.helpers.unpacking import tree as full_tree

MIB = 1 << 20


def needs(*programs: str) -> None:
    """Skip the test if a program is missing; on CI, fail it."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise lacking(f"This machine has no {missing}.")


def tree(root: Path) -> Tree:
    """Return the permissions and the content of each path below a folder."""
    return {path: (stat.S_IMODE(mode), data) for path, (mode, data) in full_tree(root).items()}


GOOD = {"VERSION": (0o644, b"%d\n" % VERSION), "install_update.sh": (0o755, SCRIPT)}


class UnpackTestCase(UnpackCase):
    """A workplace with an archive's path and a destination beside it."""

    decompress: Decompress = staticmethod(with_stdlib)

    def unpack(self, limit: int = 64 * MIB, reserve: int = 0) -> Tree:
        """Unpack; remove the folder, so that the test can unpack again, and return its content."""
        unpack(
            self.archive,
            self.destination,
            VERSION,
            limit=limit,
            reserve=reserve,
            decompress=self.decompress,
        )
        result = tree(self.destination)
        shutil.rmtree(self.destination)
        return result

    def unpack_members(self, *members: bytes) -> Tree:
        write_archive(self.archive, stream(*members))
        return self.unpack()

    def assertRefused(self, reason: str, **options: int) -> None:
        error = self.assertRaises(ArchiveRefused, self.unpack, **options)
        self.assertTrue(str(error).startswith(f"{ARCHIVE} is refused: "), error)
        self.assertIn(reason, str(error))
        self.assertTrue(str(error).isprintable())
        self.assertEqual(os.listdir(self.place), [ARCHIVE])


class LayoutTests(UnpackTestCase):
    """The result of unpacking a good archive."""

    def test_wrapped_and_flat(self) -> None:
        """The layout is the same with the top-level folder and without it."""
        good = {**GOOD, "daemon": (0o755, None), "daemon/run.py": (0o644, b"pass\n")}
        for wrapped in (True, False):
            make_archive(self.archive, VERSION, {"daemon/run.py": b"pass\n"}, wrapped=wrapped)
            self.assertEqual(self.unpack(), good)

    def test_wrapped_without_the_folder_as_member(self) -> None:
        """The top-level folder need not be a member, and `./` may stand before it."""
        for top in (f"{NAME}/", f"./{NAME}/"):
            self.assertEqual(self.unpack_members(*layout(VERSION, top)), GOOD)
            members = folder("./"), folder(top), *layout(VERSION, top)
            self.assertEqual(self.unpack_members(*members), GOOD)

    def test_names_of_the_top_level_folder(self) -> None:
        """The top-level folder may have any name with the usual beginning, as older ones have."""
        for rest in ("files", "1", str(VERSION + 1), "1.2-rc_3", "..", "x" * 64):
            top = f"opq-box-update-{rest}/"
            self.assertEqual(self.unpack_members(folder(top), *layout(VERSION, top)), GOOD)

    def test_modes(self) -> None:
        """Only the owner's x bit is kept: no set-user-id, no writing for others, no umask."""
        members = [file("s", b"", 0o6777), file("w", b"", 0o666), file("r", b"", 0o011)]
        self.addCleanup(os.umask, os.umask(0o077))
        result = self.unpack_members(*layout(VERSION), *members, header("d/", b"5", mode=0o1777))
        modes = {name: mode for name, (mode, _) in result.items()}
        self.assertEqual([modes[name] for name in "swrd"], [0o755, 0o644, 0o644, 0o755])

    def test_destination_mode(self) -> None:
        """All users can enter the folder once it is complete."""
        unpack(make_archive(self.archive, VERSION), self.destination, VERSION, reserve=0)
        self.assertEqual(stat.S_IMODE(self.destination.stat().st_mode), 0o755)

    def test_destination_exists(self) -> None:
        """An existing destination stays as it is."""
        make_archive(self.archive, VERSION)
        self.destination.mkdir()
        (self.destination / "kept").touch()
        self.assertRaises(FileExistsError, self.unpack)
        self.assertEqual(os.listdir(self.destination), ["kept"])

    def test_real_tar(self) -> None:
        """Archives of `tar cjf` are accepted: each format, long names, of a folder or `.`."""
        needs("tar", "bzip2")
        source = self.place / NAME
        deep = source / ("d" * 60) / ("e" * 60)
        deep.mkdir(parents=True)
        unpack(make_archive(self.archive, VERSION), source / "x", VERSION, reserve=0)
        for path in (source / "x").iterdir():
            path.rename(source / path.name)
        (source / "x").rmdir()
        (deep / ("f" * 90)).write_bytes(b"x" * 100_000)
        expected = tree(source)
        for form in ("gnu", "posix", "ustar", "oldgnu"):
            for inside, what in ((self.place, NAME), (self.place, f"./{NAME}"), (source, ".")):
                command = f"tar cjf {self.archive.absolute()} --format={form} {what}"
                subprocess.run(command.split(), cwd=inside, check=True)
                self.assertEqual(self.unpack(), expected, (form, what))

    def test_git_archive(self) -> None:
        """An archive of `git archive --prefix`, with its global header, is accepted."""
        needs("git")
        source = self.place / "source"
        unpack(make_archive(self.archive, VERSION), source, VERSION, reserve=0)
        git = ["git", "-C", str(source), "-c", "user.name=t", "-c", "user.email=t@example.org"]
        for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "t"]):
            subprocess.run([*git, *command], check=True)
        command = [*git, "archive", f"--prefix={NAME}/", "HEAD"]
        write_archive(self.archive, subprocess.run(command, check=True, capture_output=True).stdout)
        self.assertEqual(self.unpack(), GOOD)

    def test_archive_in_archive(self) -> None:
        """A bzip2 file or a tar stream inside is a file like any other."""
        inner = stream(header("evil", b"2", link=b"/etc"))
        members = {"inner.tar": inner, "inner.tar.bz2": bz2.compress(inner)}
        make_archive(self.archive, VERSION, members)
        self.assertEqual(self.unpack()["inner.tar"], (0o644, inner))

    def test_folder_after_its_content(self) -> None:
        """A folder may be listed after its content, if it is listed only once."""
        members = [*layout(VERSION), file("a/b/c"), folder("a/b/"), folder("./a")]
        self.assertIn("a/b/c", self.unpack_members(*members))

    def test_odd_but_harmless_names(self) -> None:
        """Names with spaces, dots, dashes, other letters and doubled slashes are accepted."""
        odd = ["...", "..a", "-rf *", "Mānoa", "a\\b", "C:", "~", "x" * 255, " "]
        members = [file(pax_name) for pax_name in odd[:-2]] + [file(" ")]
        members += [long_name("x" * 255) + file("x"), file("p//q/./r")]
        result = self.unpack_members(*layout(VERSION), *members)
        self.assertLessEqual({*odd, "p/q/r"}, result.keys())


class MemberRulesTests(SynchronousTestCase):
    """The limits of `MemberRules`."""

    def test_too_many(self) -> None:
        """More than 100,000 files and folders are refused; folders without a member count too."""
        rules = MemberRules()
        for number in range(4_000):
            rules.check(Member(f"{number}/" + "d/" * 23 + "f", 0, False, False))
        one_more = Member("f", 0, False, False)
        error = self.assertRaises(ArchiveRefused, rules.check, one_more)
        self.assertIn("more than 100000", str(error))


class DecompressionTests(UnpackTestCase):
    """Damage to the bzip2 file is found, by the standard library's decompressor."""

    #: Every n-th length and bit is tried; fewer with lbzip2, which is a process for every try.
    step = stride(11)

    def setUp(self) -> None:
        super().setUp()
        make_archive(self.archive, VERSION, {"daemon": bytes(range(256)) * 4})
        self.good = self.archive.read_bytes()
        self.expected = self.unpack()

    def test_concatenated_streams(self) -> None:
        """Several bzip2 streams one after the other are one archive, empty ones among them."""
        tar = bz2.decompress(self.good)
        parts = [tar[:100], b"", tar[100:2000], tar[2000:], b""]
        self.archive.write_bytes(concatenated(parts))
        self.assertEqual(self.unpack(), self.expected)

    def test_truncation(self) -> None:
        """A file that is cut off anywhere is refused."""
        for length in range(0, len(self.good), self.step):
            self.archive.write_bytes(self.good[:length])
            self.assertRefused("cut off")

    def test_truncated_second_stream(self) -> None:
        """A file is refused if the second of two streams is cut off."""
        tar = bz2.decompress(self.good)
        whole = concatenated([tar[:2000], tar[2000:]])
        for length in range(len(bz2.compress(tar[:2000], 1)), len(whole), self.step):
            self.archive.write_bytes(whole[:length])
            self.assertRefused("")

    def test_bit_flips(self) -> None:
        """A flipped bit is found, or changes nothing."""
        for bit in range(0, len(self.good) * 8, self.step):
            flipped = bytearray(self.good)
            flipped[bit // 8] ^= 1 << bit % 8
            self.archive.write_bytes(flipped)
            try:
                self.assertEqual(self.unpack(), self.expected)
            except ArchiveRefused:
                self.assertFalse(self.destination.exists())

    def test_limit(self) -> None:
        """The decompressed size is counted during the decompression, and limited."""
        write_archive(self.archive, stream(*layout(VERSION), file("zeros", bytes(3 * MIB))))
        self.assertRefused("unpacks to more than 3 MiB", limit=3 * MIB)
        self.assertIn("zeros", self.unpack(limit=3 * MIB + 10_000))


class Lbzip2Tests(DecompressionTests):
    """The same damage is found if lbzip2 decompresses the files that it reads correctly."""

    decompress = staticmethod(fastest)
    step = stride(61)

    def setUp(self) -> None:
        needs("lbzip2")
        super().setUp()

    def test_good_is_left_to_lbzip2(self) -> None:
        """An archive of one stream or of many is read with lbzip2."""
        self.patch(decompress, "with_stdlib", None)
        self.assertEqual(self.unpack(), self.expected)
        self.test_concatenated_streams()

    def test_child_is_gone(self) -> None:
        """After a refusal in the middle of an archive, no lbzip2 process is left."""
        members = [*layout(VERSION), file("../x"), file("zeros", bytes(8 * MIB))]
        write_archive(self.archive, stream(*members))
        # Earlier tests of this process may have started others, such as those of a pool.
        before = _children()
        self.assertRefused("'..'")
        self.assertEqual(_children() - before, set())

    def test_failure_that_is_not_the_archive(self) -> None:
        """If lbzip2 is killed, the error does not blame the archive."""
        # More than a pipe holds, so that lbzip2 cannot have ended before.
        write_archive(self.archive, stream(*layout(VERSION), file("zeros", bytes(8 * MIB))))
        before = _children()
        with self.archive.open("rb") as archive, with_lbzip2(archive) as output:
            for pid in _children() - before:
                os.kill(pid, signal.SIGKILL)
            error = self.assertRaises(OSError, output.read)
        self.assertIn("status -9", str(error))


def _children() -> set[int]:
    return {int(pid) for pid in Path("/proc/thread-self/children").read_text().split()}


class StreamsJoinTests(SynchronousTestCase):
    """Garbage after a stream is found without decompression."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        # Streams end at every bit of a byte.
        self.streams = [bz2.compress(bytes(range(count))) for count in range(60)]

    def join(self, *parts: bytes) -> bool:
        self.path.write_bytes(b"".join(parts))
        with self.path.open("rb") as archive:
            return streams_join(archive.fileno())

    def test_joined(self) -> None:
        """Streams that directly follow each other join, also empty ones, and a single one."""
        for whole in self.streams:
            self.assertTrue(self.join(whole))
        self.assertTrue(self.join(*self.streams))

    def test_garbage(self) -> None:
        """Other data after a stream is found, whatever follows it."""
        for whole in self.streams:
            for garbage in (b"\0", b"B", b"BZh", b"BZh0", b"BZ0", bytes(5000)):
                self.assertFalse(self.join(whole, garbage))
                self.assertFalse(self.join(whole, garbage, whole))

    def test_everywhere(self) -> None:
        """The end of a stream is found at each position in the chunks that are read."""
        for whole in self.streams[: 9 : stride(4)]:
            for before in range(decompress._READ - len(whole) - 9, decompress._READ + 9):
                self.assertFalse(self.join(bytes(before), whole, b"x"))

    def test_number(self) -> None:
        """A file with too many streams is refused."""
        empty = bz2.compress(b"")
        self.assertTrue(self.join(empty * MAX_STREAMS))
        self.assertRaises(ArchiveRefused, self.join, empty * (MAX_STREAMS + 1))


class RoomTests(UnpackTestCase):
    """The disk is never filled."""

    def test_reserve(self) -> None:
        """An archive that needs the reserve is removed, and the error has the needed room."""
        make_archive(self.archive, VERSION, {"zeros": bytes(3 * MIB)})
        error = self.assertRaises(NoRoom, self.unpack, reserve=1 << 60)
        self.assertIn(f"Unpacking {ARCHIVE} needs 4 MiB on the disk", str(error))
        self.assertEqual(os.listdir(self.place), [ARCHIVE])

    def test_hostile_before_too_big(self) -> None:
        """Without room the archive is still checked to its end."""
        write_archive(self.archive, stream(*layout(VERSION), file("a"), file("../b")))
        self.assertRefused("'..'", reserve=1 << 60)


class ProcessCase(UnpackTestCase):
    """The unpacker as the process that the agent starts."""

    def run_process(self, *options: str) -> subprocess.CompletedProcess[str]:
        with self.archive.open() as archive:
            return subprocess.run(
                self.command(*options), stdin=archive, capture_output=True, text=True, check=False
            )

    def command(self, *options: str) -> list[str]:
        return [*unpack_command(self.destination), *options]

    def assertEnded(self, done: subprocess.CompletedProcess[str], status: int, reason: str) -> None:
        """The process has ended with this status and one sentence, and has left no files."""
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertIn(reason, done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assertTrue(done.stderr.rstrip("\n").isprintable())
        self.assertTrue(done.stderr.endswith(".\n"))
        self.assertNotIn("Traceback", done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertNothingLeft()

    def assertNothingLeft(self) -> None:
        self.assertFalse(self.destination.exists())


class ProcessTests(ProcessCase):
    """The exit status and the output of the process."""

    def test_good(self) -> None:
        """A good archive is unpacked without output."""
        make_archive(self.archive, VERSION, {"a/b": b"c"})
        done = self.run_process("--reserve", "0")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        self.assertEqual((self.destination / "a/b").read_bytes(), b"c")

    def test_refused(self) -> None:
        """A refusal names the member and the reason; a name cannot forge a line of the log."""
        for reason, *members in (
            ("'./x' is a symbolic link", header("./x", b"2", link=b"/etc")),
            (r"'a\nroot logged in' has a control character", file("a\nroot logged in")),
            ("'VERSION' is there twice", file("VERSION", b"%d" % (VERSION + 1))),
        ):
            write_archive(self.archive, stream(*layout(VERSION), *members))
            self.assertEnded(self.run_process(), REFUSED, f"{ARCHIVE} is refused: {reason}")
        make_archive(self.archive, VERSION + 1, wrapped=False)
        self.assertEnded(
            self.run_process(), REFUSED, f"VERSION holds {VERSION + 1} and not {VERSION}"
        )

    def test_no_room(self) -> None:
        """Too little room has its own exit code."""
        make_archive(self.archive, VERSION)
        done = self.run_process("--reserve", str(1 << 60))
        self.assertEnded(done, NO_ROOM, "make room, then try again")

    def test_read_from_its_beginning(self) -> None:
        """The position of the standard input does not matter."""
        make_archive(self.archive, VERSION)
        with self.archive.open("rb", buffering=0) as archive:
            archive.read()
            self.archive.unlink()
            done = subprocess.run(self.command("--reserve", "0"), stdin=archive, check=False)
        self.assertEqual(done.returncode, 0)
        self.assertEqual(os.listdir(self.place), ["unpacked"])

    def test_no_file(self) -> None:
        """An error that is neither a refusal nor a lack of room has another exit code."""
        command = self.command()
        done = subprocess.run(command, input="", capture_output=True, text=True, check=False)
        self.assertEnded(done, 1, f"{ARCHIVE} could not be unpacked: ")

    def test_disk_full(self) -> None:
        """A disk without free inodes is a lack of room, and no files are left."""
        make_archive(self.archive, VERSION, {str(number): b"" for number in range(20)})
        mounted = self.place / "mounted"
        mounted.mkdir()
        self.destination = mounted / "unpacked"
        script = (
            f"mount -t tmpfs -o size=8m,nr_inodes=12 none {mounted} && "
            f"{' '.join(self.command('--reserve', '0'))} <{self.archive}; "
            f"status=$?; ls {mounted}; exit $status"
        )
        command = [*own_mounts(), "sh", "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stdout), (NO_ROOM, ""), done.stderr)
        self.assertIn("make room", done.stderr)

    def test_stopped(self) -> None:
        """If the agent stops the process at any time, no files are left."""
        zeros = b"".join(file(str(number), bytes(MIB)) for number in range(100))
        write_archive(self.archive, stream(*layout(VERSION), zeros))
        with self.archive.open() as archive:
            process = subprocess.Popen(self.command(), stdin=archive, stderr=subprocess.PIPE)
        while not (self.destination / "VERSION").exists():
            self.assertIsNone(process.poll())
        process.terminate()
        _, sentence = process.communicate()
        self.assertEqual(
            (process.returncode, sentence), (1, b"Unpacking was stopped by SIGTERM.\n")
        )
        self.assertNothingLeft()


#: Runs the unpacker as a program whose `_fill` tells what this process may do, and does nothing.
TELL_RIGHTS = """
import resource
from opq_twisted.archive.extract import unpack

def fill(*arguments):
    for line in open("/proc/self/status"):
        if line.startswith("NoNewPrivs"):
            print(line.replace("\\t", " ").strip())
    for name in ("CORE", "NOFILE", "FSIZE"):
        print(name, *resource.getrlimit(getattr(resource, f"RLIMIT_{name}")))

unpack._fill = fill
raise SystemExit(unpack.main())
"""


class RightsTests(ProcessCase):
    """The rights of the process while it reads the archive."""

    def command(self, *options: str) -> list[str]:
        python, _, _, *arguments = super().command(*options)
        return [python, "-c", TELL_RIGHTS, *arguments]

    def test_limits(self) -> None:
        """The process cannot raise its limits, and gains no rights by set-user-id programs."""
        make_archive(self.archive, VERSION)
        rights = self.run_process("--limit", "12345").stdout.splitlines()
        expected = {"NoNewPrivs: 1", "CORE 0 0", "NOFILE 64 64", "FSIZE 12345 12345"}
        self.assertLessEqual(expected, set(rights))
