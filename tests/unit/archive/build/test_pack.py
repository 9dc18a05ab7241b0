"""Packing is reproducible, checks the rules of boxes, and leaves no incomplete archive."""

import errno
import json
import os
import tarfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, BinaryIO, NoReturn

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.build import pack as pack_module
from opq_twisted.archive.build.compress import compress
from opq_twisted.archive.build.contents import (
    Contents,
    File,
    find_file,
    find_script,
    find_trusted_root,
    gather,
)
from opq_twisted.archive.build.cut import LARGE
from opq_twisted.archive.build.pack import pack
from opq_twisted.archive.delta import compare
from opq_twisted.archive.extract.unpack import unpack
from opq_twisted.archive.name import UpdateName
from opq_twisted.archive.pieces import Index, read_index
from opq_twisted.common.errors import BuildFailed
from opq_twisted.common.progress_bar import Progress

NAME = UpdateName(1547860803)
TOP = "opq-box-update-files"
LONG = "a-name-that-needs-more-than-the-hundred-bytes-of-a-tar-header/" * 3
FILES = {"VERSION": b"b", "z": b"", f"{LONG}end": b"deep", "a/Ä": b"umlaut", "a-b": b"dash"}


class PackTest(SynchronousTestCase):
    """A folder to build in and a small component."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.output = self.new_folder("output")
        self.kernel = self.new_folder("kernel")
        self.write(self.kernel / "image", b"kernel")
        self.script = self.folder / "install.sh"
        self.write(self.script, b"#!/bin/sh\n")

    def new_folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        return folder

    def write(self, path: Path, data: bytes, mode: int = 0o644) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(mode)

    def contents(self) -> Contents:
        return {
            "install_update.sh": find_script(self.script),
            **gather(self.kernel, "kernel"),
        }

    def pack(self, output: Path | None = None, progress: Progress = lambda _: None) -> Path:
        return pack(NAME, self.contents(), output or self.output, progress=progress)

    def assert_refused(self, *words: str) -> None:
        """No archive is written, and one sentence with these words is the reason."""
        error = self.assertRaises(BuildFailed, self.pack)
        for word in words:
            self.assertIn(word, str(error))
        self.assertTrue(str(error).endswith("."))
        self.assertEqual(list(self.output.iterdir()), [])


class TestTheArchive(PackTest):
    """The content of an archive."""

    def test_same_bytes(self) -> None:
        """The archive does not depend on the order, times and modes of the files."""
        archives = []
        for order, mode in ((sorted(FILES), 0o600), (sorted(FILES, reverse=True), 0o664)):
            self.kernel = self.new_folder(f"kernel-{mode:o}")
            for path in order:
                self.write(self.kernel / path, FILES[path], mode)
                os.utime(self.kernel / path, (mode, mode))
            archives.append(self.pack(self.new_folder(f"output-{mode:o}")).read_bytes())
        self.assertEqual(archives[0], archives[1])

    def test_layout(self) -> None:
        """The version is first, then the script and the root, then the components, sorted."""
        for path in ("b/2", "b/10", "b-c", "B"):
            self.write(self.kernel / path, b"")
        contents = self.contents() | {"root.json": find_file(self.kernel / "image")}
        with tarfile.open(pack(NAME, contents, self.output)) as archive:
            names = archive.getnames()
        kernel = ["kernel", "kernel/B", "kernel/b", "kernel/b/10", "kernel/b/2", "kernel/b-c"]
        inside = ["VERSION", "install_update.sh", "root.json", *kernel, "kernel/image"]
        self.assertEqual(names, [TOP, *(f"{TOP}/{path}" for path in inside)])

    def test_members(self) -> None:
        """Members belong to root, and have the mode 0644 or 0755."""
        self.write(self.kernel / "tool", b"", 0o700)
        with tarfile.open(self.pack()) as archive:
            modes = {member.name.removeprefix(f"{TOP}/"): member.mode for member in archive}
            owners = {(m.uid, m.gid, m.uname, m.gname) for m in archive}
        self.assertEqual(owners, {(0, 0, "", "")})
        self.assertEqual(
            modes,
            {
                TOP: 0o755,
                "VERSION": 0o644,
                "install_update.sh": 0o755,
                "kernel": 0o755,
                "kernel/image": 0o644,
                "kernel/tool": 0o755,
            },
        )

    def test_a_box_unpacks_it(self) -> None:
        """The box's unpacker restores the files."""
        files = FILES | {"large": Random(0).randbytes(9_000_000), "one-chunk": bytes(3_600_000)}
        for path, data in files.items():
            self.write(self.kernel / path, data)
        (self.kernel / "empty").mkdir()
        archive = self.pack()
        unpacked = self.folder / "unpacked"
        unpack(archive, unpacked, NAME.version, reserve=0)
        for path, data in files.items():
            self.assertEqual((unpacked / "kernel" / path).read_bytes(), data)
        self.assertTrue((unpacked / "kernel" / "empty").is_dir())

    def test_times(self) -> None:
        """The time of a member depends on its content only, and is never in the future."""
        for path, data in (("a", b"1"), ("b", b"1"), ("c", b"2"), ("d", bytes(LARGE))):
            self.write(self.kernel / path, data)
        with tarfile.open(self.pack()) as archive:
            times = {member.name.rpartition("/")[2]: member.mtime for member in archive}
        self.assertEqual(times["a"], times["b"])
        self.assertEqual(len({times[path] for path in "acd"}), 3)
        self.assertEqual(times[TOP], times["kernel"])
        start, end = datetime(2000, 1, 1, tzinfo=UTC), datetime(2017, 1, 5, tzinfo=UTC)
        for time in times.values():
            self.assertTrue(start.timestamp() <= time < end.timestamp())

    def test_only_what_changed(self) -> None:
        """The next update has the same pieces, except for the version and a changed file."""
        for number in range(3):
            self.write(self.kernel / f"large{number}", Random(number).randbytes(600_000))
        old = self.index(self.pack())
        (self.kernel / "large1").write_bytes(Random(9).randbytes(600_000))
        new = self.index(pack(UpdateName(NAME.version + 1), self.contents(), self.output))
        fetched = compare(new, old).fetched
        self.assertTrue(600_000 < fetched < 700_000, fetched)

    def test_only_its_component(self) -> None:
        """A changed file changes no piece of another component."""
        old = {piece.digest for piece in self.index(self.pack()).pieces}
        (self.kernel / "image").write_bytes(b"another kernel")
        new = self.index(pack(UpdateName(NAME.version + 1), self.contents(), self.output))
        self.assertEqual(
            len({piece.digest for piece in new.pieces} - old), len(["VERSION", "kernel"])
        )

    def index(self, archive: Path) -> Index:
        with archive.open("rb") as file:
            return read_index(file.fileno(), archive.stat().st_size)

    def test_cores(self) -> None:
        """The bytes do not depend on the number of cores."""
        self.write(self.kernel / "large", Random(0).randbytes(3_000_000))
        archives = []
        for cores in (1, 2, 7, None):
            self.patch(os, "cpu_count", lambda cores=cores: cores)
            archives.append(self.pack(self.new_folder(f"output-{cores}")).read_bytes())
        self.assertEqual(len(set(archives)), 1)

    def test_scripts_are_executable(self) -> None:
        """Each file that begins with #! is executable, whatever its own mode is."""
        for name in ("install.sh", "bin/flash", "notes"):
            self.write(self.kernel / name, b"x" if name == "notes" else b"#!/bin/sh\nexit\n", 0o644)
        contents = gather(self.kernel, "kernel")
        executable = {path for path, file in contents.items() if file and file.is_executable}
        self.assertEqual(executable, {"kernel/install.sh", "kernel/bin/flash"})

    def test_windows_line_ends_elsewhere(self) -> None:
        """Files that are no scripts may have CRLF, and so may the binary part of a script."""
        self.write(self.kernel / "notes.txt", b"one\r\ntwo\r\n")
        self.write(self.kernel / "install.sh", b"#!/bin/sh\nexit\n" + b"x" * 5000 + b"\r\n")
        self.pack()

    def test_litter(self) -> None:
        """Python's caches and git's folder are left out."""
        for path in ("__pycache__/a.cpython-311.pyc", "b.pyc", ".git/config"):
            self.write(self.kernel / path, b"litter")
        self.assertEqual(list(gather(self.kernel, "kernel")), ["kernel", "kernel/image"])


class TestRefusals(PackTest):
    """Files that boxes would refuse, and likely mistakes."""

    def test_link_inside(self) -> None:
        """A link to a file of the same component is packed as that file."""
        (self.kernel / "link").symlink_to("image")
        with tarfile.open(self.pack()) as archive:
            member = archive.getmember(f"{TOP}/kernel/link")
            content = archive.extractfile(member)
            self.assertTrue(member.isreg())
            assert content is not None
            self.assertEqual(content.read(), b"kernel")

    def test_link_refused(self) -> None:
        """A link that leads to no file, or out of its component, is refused."""
        link = self.kernel / "link"
        for target, words in (
            ("/etc/passwd", "leads out of"),
            ("gone", "cannot be read"),
            ("link", "cannot be read"),
            (".", "file"),
        ):
            link.symlink_to(target)
            self.assert_refused("kernel/link", words)
            link.unlink()

    def test_file_refused(self) -> None:
        """A file that no box would accept, or could use, is refused with the reason."""
        for number, (path, data, name, reason) in enumerate(
            (
                ("new\nline", b"", "kernel/new\\nline", "control character"),
                (os.fsdecode(b"\xff"), b"", "kernel/\\udcff", "UTF-8"),
                ("d/" * 30 + "file", b"", "d/d/d", "deep"),
                (("d" * 200 + "/") * 5 + "file", b"", "ddd", "longer than 1024 bytes"),
                ("install.sh", b"echo hello\n", "/install.sh is no script", "#!"),
                # Each line of a file that scripts read would fail.
                ("functions.sh", b"flash() {\r\n}\r\n", "functions.sh", "CRLF"),
            )
        ):
            with self.subTest(path=path):
                self.kernel = self.new_folder(f"kernel-{number}")
                self.write(self.kernel / path, data)
                self.assert_refused(name, reason)

    def test_fifo(self) -> None:
        """A FIFO is refused, and does not block the builder."""
        os.mkfifo(self.kernel / "fifo")
        self.assert_refused("kernel/fifo", "not a regular file")

    def test_too_large(self) -> None:
        """An update that is too large for boxes is refused before its files are read."""
        with (self.kernel / "large").open("wb") as file:
            file.truncate(2 << 30)
        self.assert_refused("2048 MiB")

    def test_no_script(self) -> None:
        """A missing install script is refused, and one without a #! line."""
        self.script.write_bytes(b"echo hello\n")
        self.assert_refused("install.sh", "#!")
        self.script.unlink()
        self.assert_refused("install.sh", "cannot be read")

    def test_unusable_script(self) -> None:
        """A script with the line ends of Windows or a byte order mark is refused."""
        for path in (self.kernel / "install.sh", self.kernel / "bin" / "flash", self.script):
            self.write(path, b"#!/bin/sh\r\nexit\r\n")
            self.assert_refused(path.name, "CRLF", "convert it")
            path.write_bytes(b"\xef\xbb\xbf#!/bin/sh\n")
            self.assert_refused(path.name, "byte order mark")
            path.write_bytes(b"#!/bin/sh\nexit\n")
        self.write(self.kernel / "install.sh", b"#!/bin/sh\nexit\r\n")
        self.assert_refused("install.sh", "CRLF")

    def test_no_folder(self) -> None:
        """A component's folder must be there."""
        self.kernel = self.folder / "gone"
        self.assert_refused("gone")


class TestTrustedRoot(PackTest):
    """The root in an update is checked, except its signatures."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.folder / "2.root.json"
        self.signed: dict[str, Any] = {
            "_type": "root",
            "version": 2,
            "expires": "2030-12-31T23:59:59Z",
            "keys": {"k": {}},
            "roles": {role: {} for role in ("root", "targets", "snapshot", "timestamp")},
        }
        self.metadata: dict[str, Any] = {"signed": self.signed, "signatures": [{"keyid": "k"}]}

    def find(self, text: bytes | None = None, now: str = "2030-12-31T23:59:58Z") -> File:
        self.write(self.path, json.dumps(self.metadata).encode() if text is None else text)
        return find_trusted_root(self.path, datetime.fromisoformat(now))

    def assert_no_root(self, reason: str, text: bytes | None = None) -> None:
        """One sentence has the name of the file, the reason, and the remedy."""
        error = self.assertRaises(BuildFailed, self.find, text)
        self.assertIn(f"{self.path} is no trusted root ({reason}", str(error))
        self.assertRegex(str(error), r"\): give the newest root\.json [^\n]+\.\Z")

    def test_good(self) -> None:
        """A root is accepted until the last second, up to the largest size that clients read."""
        text = json.dumps(self.metadata).encode()
        self.assertEqual(self.find().size, len(text))
        self.assertEqual(self.find(text.ljust(512_000)).size, 512_000)
        self.assert_no_root("it is larger than 512000 bytes", text.ljust(512_001))

    def test_expired(self) -> None:
        """A root is refused from the second at which it expires."""
        error = self.assertRaises(BuildFailed, self.find, now="2030-12-31T23:59:59Z")
        self.assertIn(f"{self.path} expired on 2030-12-31 at 23:59 UTC: have", str(error))

    def test_not_json(self) -> None:
        """A file that a TUF client cannot parse is refused."""
        encoded = json.dumps(self.metadata)
        for text in (b"", b"root", b"\xff", encoded.encode("utf-16"), encoded.encode()[:-1]):
            self.assert_no_root("it is not JSON: ", text)
        for text in (b"[" * 100_000, b'{"signed": {"_type": %s}}' % (b"[" * 900 + b"]" * 900)):
            self.assert_no_root("", text)

    def test_not_an_object(self) -> None:
        """JSON that is not an object, is empty, or is not signed metadata is refused."""
        self.assert_no_root("it is no JSON object", b"[]")
        self.assert_no_root('it has no "signed"', b"{}")
        self.assert_no_root('it has no "signed"', b'{"signed": [1]}')

    def test_lacking(self) -> None:
        """A root with a missing, wrong or empty field is refused."""
        others: tuple[object, ...] = (None, [], {}, "", 1.5, [1])
        for key in ("version", "expires", "keys", "roles"):
            for value in others:
                self.signed[key], kept = value, self.signed[key]
                self.assert_no_root(f'it has no "{key}"')
                self.signed[key] = kept
        for value in (None, [], {}, "", {"keyid": "k"}):
            self.metadata["signatures"] = value
            self.assert_no_root('it has no "signatures"')

    def test_wrong_value(self) -> None:
        """The metadata of another role, and a field whose value is invalid, are refused."""
        expires = "its signed.expires is not like 2030-12-31T00:00:00Z"
        wrong: tuple[tuple[str, object, str], ...] = (
            ("_type", "targets", 'its signed._type is "targets", not "root"'),
            ("_type", None, 'its signed._type is null, not "root"'),
            *(("version", version, "its version is not 1 or more") for version in (0, -1, True)),
            ("roles", {"root": {}, "targets": {}}, "its roles lack snapshot, timestamp"),
            ("expires", "2030-12-31", expires),
            ("expires", "2030-12-31T23:59:59", expires),
            ("expires", "2030-12-31T23:59:59+00:00", expires),
            ("expires", "never", expires),
        )
        for key, value, reason in wrong:
            self.signed[key], kept = value, self.signed[key]
            self.assert_no_root(reason)
            self.signed[key] = kept

    def test_fifo(self) -> None:
        """A FIFO is refused, and does not block the builder."""
        os.mkfifo(self.path)
        error = self.assertRaises(BuildFailed, find_trusted_root, self.path, datetime.now(UTC))
        self.assertIn("not a regular file", str(error))

    def test_changes(self) -> None:
        """A root that changes after it was checked ends the build."""
        contents = self.contents() | {"root.json": self.find()}
        self.write(self.path, b"another root")
        error = self.assertRaises(BuildFailed, pack, NAME, contents, self.output)
        self.assertIn("2.root.json changed while it was read", str(error))
        self.assertEqual(list(self.output.iterdir()), [])


class TestWholeOrNotAtAll(PackTest):
    """The final name never leads to an incomplete archive."""

    def assert_nothing_left(self) -> None:
        self.assertEqual(list(self.output.iterdir()), [])

    def test_name_taken(self) -> None:
        """An archive never replaces a file with its name."""
        (self.output / str(NAME)).write_bytes(b"older")
        error = self.assertRaises(BuildFailed, self.pack)
        self.assertIn("already there", str(error))
        self.assertEqual((self.output / str(NAME)).read_bytes(), b"older")

    def test_name_taken_meanwhile(self) -> None:
        """A file that gets the name during the packing stays as it is."""
        target = self.output / str(NAME)

        def write_target(_: int) -> None:
            target.write_bytes(b"faster")

        error = self.assertRaises(BuildFailed, self.pack, progress=write_target)
        self.assertIn("already there", str(error))
        self.assertEqual([path.read_bytes() for path in self.output.iterdir()], [b"faster"])

    def test_no_hard_links(self) -> None:
        """A filesystem without hard links gets its archive too."""

        def refuse(*_: object) -> NoReturn:
            raise OSError(errno.EPERM, "Operation not permitted")

        self.patch(Path, "hardlink_to", refuse)
        archive = self.pack()
        self.assertEqual(list(self.output.iterdir()), [archive])

    def test_file_changes(self) -> None:
        """A file that grows, shrinks or is rewritten while it is read ends the build."""
        image = self.kernel / "image"
        for data in (b"more than before", b"less", b"other!"):
            self.write(image, b"kernel")
            os.utime(image, (1, 1))
            contents = self.contents()
            self.write(image, data)
            error = self.assertRaises(BuildFailed, pack, NAME, contents, self.output)
            self.assertIn("changed while it was read", str(error))
            self.assert_nothing_left()

    def test_file_becomes_fifo(self) -> None:
        """A FIFO in the place of a file ends the build, and does not block it."""
        contents = self.contents()
        (self.kernel / "image").unlink()
        os.mkfifo(self.kernel / "image")
        error = self.assertRaises(BuildFailed, pack, NAME, contents, self.output)
        self.assertIn("image cannot be read (It is not a regular file)", str(error))
        self.assert_nothing_left()

    def test_large_file_changes(self) -> None:
        """A large file that is rewritten after it was hashed ends the build, whatever its time."""
        image = self.kernel / "image"
        self.write(image, bytes(2 * LARGE))
        times = image.stat()

        def rewrite(count: int) -> None:
            # The script is smaller, and is read before the large file is hashed.
            if count > len(b"#!/bin/sh\n"):
                image.write_bytes(bytes(2 * LARGE - 1) + b"x")
                os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))

        error = self.assertRaises(BuildFailed, self.pack, progress=rewrite)
        self.assertIn("image changed while it was read", str(error))
        self.assert_nothing_left()

    def test_file_vanishes(self) -> None:
        """A file that cannot be read any more ends the build."""
        contents = self.contents()
        (self.kernel / "image").unlink()
        error = self.assertRaises(BuildFailed, pack, NAME, contents, self.output)
        self.assertIn("image cannot be read (No such file", str(error))
        self.assert_nothing_left()

    def test_disk_full(self) -> None:
        """A full disk is reported in a sentence."""

        def onto_full_disk(pieces: Iterable[bytes], _: BinaryIO) -> None:
            with open("/dev/full", "wb") as full:
                compress(pieces, full)

        self.patch(pack_module, "compress", onto_full_disk)
        self.write(self.kernel / "large", Random(0).randbytes(5_000_000))
        error = self.assertRaises(BuildFailed, self.pack)
        self.assertIn("No space left on device", str(error))
        self.assert_nothing_left()

    def test_interrupted(self) -> None:
        """An interruption leaves no files."""

        def interrupt(_: int) -> NoReturn:
            raise KeyboardInterrupt

        with self.assertRaises(KeyboardInterrupt):
            self.pack(progress=interrupt)
        self.assert_nothing_left()

    def test_progress(self) -> None:
        """Progress adds up to the size of all files."""
        self.write(self.kernel / "large", bytes(2 * LARGE))
        counts: list[int] = []
        self.pack(progress=counts.append)
        self.assertEqual(sum(counts), 2 * LARGE + len(b"kernel") + len(b"#!/bin/sh\n"))
