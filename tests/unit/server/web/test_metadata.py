"""`/tuf/NAME` serves the signed metadata."""

import json
import os
import shutil
import socket
import tempfile
from pathlib import Path

from securesystemslib.signer import Signer
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.http.resource import PlainResource
from opq_twisted.server.catalog.archive_cache import InThread
from opq_twisted.server.catalog.digests import Digests
from opq_twisted.server.catalog.indexes import Indexes
from opq_twisted.server.catalog.snapshot import Catalog
from opq_twisted.server.catalog.updates_file import Identity
from opq_twisted.server.limits import Downloads
from opq_twisted.server.timestamp import store
from opq_twisted.server.timestamp.state import MetadataState, refresh_timestamp
from opq_twisted.server.timestamp.store import MetadataFolder
from opq_twisted.server.web import metadata
from opq_twisted.server.web.long_poll import NewestVersion
from opq_twisted.server.web.resources import make_root
from tests.helpers.archives import make_archive, name_of
from tests.helpers.http_exchange import Response, ask
from tests.helpers.privileges import remove_tree, without_privileges
from tests.helpers.signed_metadata import Signed, make_key

NOW = 1_700_000_000
RELEASE = 1_600_000_000

FOREVER = "public, max-age=31536000, immutable"
NEVER = "no-store"


class MetadataTestCase(SynchronousTestCase):
    """The server's tree over a directory with signed metadata."""

    def setUp(self) -> None:
        # Not trial's own folder: a user without privileges must be able to reach it.
        place = Path(tempfile.mkdtemp())
        self.addCleanup(remove_tree, place)
        place.chmod(0o755)
        self.updates = place / "updates"
        self.updates.mkdir()
        self.signed = Signed(self.updates, NOW).init()
        self.folder = self.signed.folder
        self.signed.publish(1)
        self.signed.timestamp(1, 1)
        self.metadata_state = MetadataState()
        self.root = self.make_root()
        self.look()
        #: The files that were read.
        self.reads: list[str] = []
        self.patch(metadata, "read", self.read)

    def make_root(self, mirror: str | None = None) -> PlainResource:
        catalog = Catalog(self.updates)
        catalog.rescan()
        version = NewestVersion(Clock(), catalog)
        digests, indexes = Digests(maybeDeferred), Indexes(maybeDeferred)
        return make_root(
            catalog, digests, indexes, Downloads(10), version, mirror, lambda: self.metadata_state
        )

    def look(self, signer: Signer | None = None) -> MetadataState:
        """Let the server read the metadata, with or without the timestamp's key."""
        catalog = Catalog(self.updates)
        catalog.rescan()
        self.metadata_state = refresh_timestamp(
            MetadataFolder(self.updates), catalog.snapshot, signer, NOW
        )
        return self.metadata_state

    def read(self, folder: Path, name: str) -> tuple[bytes, Identity]:
        self.reads.append(name)
        return store.read(folder, name)

    def get(self, name: str, *headers: str, method: str = "GET") -> Response:
        return ask(self.root, method, f"/tuf/{name}", *headers)

    def put(self, name: str, size: int) -> bytes:
        """Put metadata of this many bytes into the folder."""
        data = b'{"signed": {}, "signatures": []}'.ljust(size)
        (self.folder / name).write_bytes(data)
        return data

    def assertNotFound(self, name: str) -> None:
        """The response is 404 with one line, and is not cached."""
        response = self.get(name)
        self.assertEqual(response.status, 404, name)
        self.assertRegex(response.text, r"\A[^\n<>]{10,}\.\n\Z")
        self.assertEqual(response.headers["Cache-Control"], "no-store")


class FileTests(MetadataTestCase):
    """Files that are served."""

    def test_files(self) -> None:
        """Each file is served as JSON with the bytes in the folder."""
        (self.folder / "3.de_leg-ated9.json").write_bytes(
            (self.folder / "1.targets.json").read_bytes()
        )
        for name in (
            "1.root.json",
            "1.targets.json",
            "1.snapshot.json",
            "3.de_leg-ated9.json",
            "timestamp.json",
        ):
            response = self.get(name)
            self.assertEqual(response.status, 200)
            self.assertEqual(response.body, (self.folder / name).read_bytes())
            self.assertEqual(response.headers["Content-Type"], "application/json")
            self.assertIsNone(response.headers["Content-Encoding"])

    def test_known_already(self) -> None:
        """An unchanged file gets 304; the entity tag depends on the content, so copies share it."""
        tag = self.get("timestamp.json").headers["ETag"]
        self.assertRegex(tag, r'\A"[0-9a-f]{32}"\Z')
        response = self.get("timestamp.json", f"If-None-Match: {tag}")
        self.assertEqual((response.status, response.body), (304, b""))
        self.assertEqual(response.headers["ETag"], tag)
        self.assertEqual(response.headers["Cache-Control"], "no-cache")
        path = self.folder / "timestamp.json"
        copy = path.read_bytes()
        path.unlink()
        path.write_bytes(copy)
        self.assertEqual(self.get("timestamp.json", f"If-None-Match: {tag}").status, 304)
        self.signed.timestamp(2, 1)
        response = self.get("timestamp.json", f"If-None-Match: {tag}")
        self.assertEqual(response.status, 200)
        self.assertEqual(json.loads(response.body)["signed"]["version"], 2)
        self.assertEqual(self.get("timestamp.json", 'If-Match: "x"').status, 412)

    def test_head(self) -> None:
        """HEAD has the headers of GET and no body."""
        got, head = self.get("1.root.json"), self.get("1.root.json", method="HEAD")
        for response in (got, head):
            del response.headers["Date"]
        self.assertEqual(head.headers.items(), got.headers.items())
        self.assertEqual((head.status, head.body), (200, b""))

    def test_other_methods(self) -> None:
        """No method can write."""
        response = self.get("timestamp.json", method="PUT")
        self.assertEqual((response.status, response.headers["Allow"]), (405, "GET, HEAD"))

    def test_mirror(self) -> None:
        """With a mirror for the archives, metadata still comes from this server."""
        self.root = self.make_root("https://mirror.example.org")
        self.assertEqual(self.get("timestamp.json").status, 200)

    def test_large(self) -> None:
        """A file of the maximum length for boxes is served, and a longer one is not."""
        data = self.put("2.targets.json", 5_000_000)
        self.assertEqual(self.get("2.targets.json").body, data)
        self.put("2.targets.json", 5_000_001)
        self.assertNotFound("2.targets.json")
        self.put("2.root.json", 512_001)
        self.assertNotFound("2.root.json")

    def test_appears(self) -> None:
        """A new file is served at once."""
        self.assertNotFound("2.root.json")
        self.signed.root(2)
        self.assertEqual(self.get("2.root.json").status, 200)


class CachingTests(MetadataTestCase):
    """Caching: a wrong file in a cache could hide the right one from boxes for a year."""

    def assert_cached(self, **expected: str) -> None:
        """Check `Cache-Control` of numbered files, by `role_number`."""
        for name, control in expected.items():
            role, number = name.split("_")
            response = self.get(f"{number}.{role}.json")
            self.assertEqual(
                (response.status, response.headers["Cache-Control"]), (200, control), name
            )

    def test_announced(self) -> None:
        """The files that the timestamp names may be cached; the timestamp must be revalidated."""
        self.assert_cached(root_1=FOREVER, snapshot_1=FOREVER, targets_1=FOREVER)
        self.assertEqual(self.get("timestamp.json").headers["Cache-Control"], "no-cache")

    def test_not_read(self) -> None:
        """Before the metadata is read, no file counts as verified."""
        self.metadata_state = MetadataState()
        self.assert_cached(root_1=NEVER, snapshot_1=NEVER, targets_1=NEVER)

    def test_not_announced(self) -> None:
        """A metadata set may be cached only while it is announced."""
        self.signed.publish(2)
        self.look()
        self.assert_cached(snapshot_2=NEVER, targets_2=NEVER, snapshot_1=FOREVER)
        self.look(self.signed.keys["timestamp"])
        self.assert_cached(snapshot_2=FOREVER, targets_2=FOREVER, snapshot_1=NEVER)

    def test_wrong_root(self) -> None:
        """A root that boxes refuse may not be cached; the right one may, once it is verified."""
        self.signed.root(2, signers=[make_key()])
        self.look()
        self.assert_cached(root_2=NEVER, root_1=FOREVER)
        self.signed.root(2)
        self.assert_cached(root_2=NEVER)
        self.look()
        self.assert_cached(root_2=FOREVER)

    def test_root_that_replaces_the_key(self) -> None:
        """Without a timestamp that boxes accept, no root may be cached: it may be a mistake."""
        self.signed.rotate("timestamp", 2)
        self.look()
        self.assert_cached(root_1=NEVER, root_2=NEVER, snapshot_1=NEVER)
        self.look(self.signed.keys["timestamp"])
        self.assert_cached(root_1=FOREVER, root_2=FOREVER, snapshot_1=FOREVER)

    def test_unsigned_metadata(self) -> None:
        """Snapshots and targets that were signed without the keys may not be cached."""
        thief = Signed(self.updates, NOW)
        thief.publish(2)
        self.look(self.signed.keys["timestamp"])
        self.assert_cached(snapshot_2=NEVER, targets_2=NEVER, snapshot_1=FOREVER)

    def test_another_snapshot(self) -> None:
        """A signed snapshot that the timestamp does not name may not be cached."""
        self.signed.snapshot(1, 1, days=300)
        self.look()
        self.assert_cached(snapshot_1=NEVER, targets_1=NEVER)

    def test_replaced(self) -> None:
        """A file that was replaced since it was verified may not be cached."""
        self.assert_cached(targets_1=FOREVER)
        (self.folder / "1.targets.json").write_bytes(b'{"signed": {}}')
        self.assert_cached(targets_1=NEVER)

    def test_known_already(self) -> None:
        """A 304 has the same Cache-Control."""
        tag = self.get("1.root.json").headers["ETag"]
        for metadata_state, control in ((self.metadata_state, FOREVER), (MetadataState(), NEVER)):
            self.metadata_state = metadata_state
            response = self.get("1.root.json", f"If-None-Match: {tag}")
            self.assertEqual((response.status, response.headers["Cache-Control"]), (304, control))


class ArchiveCachingTests(MetadataTestCase):
    """Caching of the archives."""

    def setUp(self) -> None:
        super().setUp()
        self.path = make_archive(self.updates / name_of(RELEASE), RELEASE)

    def cache_control(self, in_thread: InThread = maybeDeferred) -> str | None:
        """Send a request to a server that has just started."""
        catalog = Catalog(self.updates)
        catalog.rescan()
        version = NewestVersion(Clock(), catalog)
        digests, indexes = Digests(in_thread), Indexes(in_thread)
        root = make_root(
            catalog, digests, indexes, Downloads(10), version, None, lambda: self.metadata_state
        )
        response = ask(root, "HEAD", f"/update/{name_of(RELEASE)}")
        self.assertEqual(response.status, 200)
        return response.headers["Cache-Control"]

    def publish(self, number: int) -> None:
        self.signed.publish(number, self.path)
        self.look(self.signed.keys["timestamp"])

    def test_signed(self) -> None:
        """An archive may be cached once its digest is known to be the signed one."""
        self.assertEqual(self.cache_control(), "no-cache")
        self.publish(2)
        hashing: Deferred[bytes | None] = Deferred()
        self.assertEqual(self.cache_control(lambda *work: hashing), "no-cache")
        hashing.callback(None)
        self.assertEqual(self.cache_control(), FOREVER)

    def test_wrong(self) -> None:
        """A wrong archive of that name and length may not be cached; then the right one may."""
        self.publish(2)
        right = self.path.read_bytes()
        self.path.write_bytes(bytes([*right[:20], right[20] ^ 1, *right[21:]]))
        self.assertEqual(self.cache_control(), "no-cache")
        self.path.write_bytes(right)
        self.assertEqual(self.cache_control(), FOREVER)

    def test_metadata_unusable(self) -> None:
        """If the metadata cannot be used, no archive counts as verified."""
        self.metadata_state = MetadataState()
        self.assertEqual(self.cache_control(), "no-cache")

    def test_no_metadata(self) -> None:
        """In a directory without signed metadata, the name is enough."""
        shutil.rmtree(self.folder)
        self.assertFalse(self.look().present)
        self.assertEqual(self.cache_control(), FOREVER)


class NotThereTests(MetadataTestCase):
    """Files that are not served."""

    def test_names(self) -> None:
        """A file that is not named like metadata is not served."""
        (self.updates / "secret.json").write_text('{"signed": 1}')
        for name in ("root.json", "0.root.json", "1.root.json.bak", ".1.root.json.new", "x.json"):
            self.put(name, 100)
        for name in (
            *("root.json", "0.root.json", "01.root.json", "1.root.json.bak", ".1.root.json.new"),
            *("x.json", "1.json", "1..json", "-1.root.json", "1.root.JSON", "1.r%20t.json"),
            *("", "%2e%2e/secret.json", "..%2fsecret.json", "1.root.json/", "1.root.json/x"),
            *("1.root.json%00", "1.ro%2fot.json", "1.r%c3%b6t.json", "timestamp.json%0a", "//"),
            "1" * 5000 + ".root.json",
        ):
            self.assertNotFound(name)
        self.assertEqual(self.reads, [])

    def test_missing(self) -> None:
        """Repeated requests for a missing root open no file."""
        for _ in range(3):
            self.assertNotFound("2.root.json")
        self.assertEqual(self.reads, [])

    def test_no_folder(self) -> None:
        """Without the folder nothing is served; it may come back."""
        self.folder.rename(away := Path(self.mktemp()))
        self.assertNotFound("1.root.json")
        self.folder.touch()
        self.assertNotFound("1.root.json")
        self.folder.unlink()
        away.rename(self.folder)
        self.assertEqual(self.get("1.root.json").status, 200)

    def test_links(self) -> None:
        """A link within the folder is followed; a link out of it, or to nowhere, is not."""
        outside = self.updates / "outside.json"
        outside.write_text('{"signed": 1}')
        (self.folder / "2.root.json").symlink_to("1.root.json")
        (self.folder / "3.root.json").symlink_to("../outside.json")
        (self.folder / "4.root.json").symlink_to("/etc/passwd")
        (self.folder / "5.root.json").symlink_to("6.root.json")
        self.assertEqual(self.get("2.root.json").status, 200)
        for number in (3, 4, 5):
            self.assertNotFound(f"{number}.root.json")

    def test_folder_elsewhere(self) -> None:
        """A folder that is a link within the directory is followed; no other link is."""
        self.folder.rename(self.updates / "inside")
        self.folder.symlink_to("inside")
        self.assertEqual(self.get("1.root.json").status, 200)
        self.folder.unlink()
        outside = (self.updates / "inside").rename(Path(self.mktemp()).absolute())
        self.folder.symlink_to(outside)
        (outside / "1.root.json").write_bytes((outside / "1.root.json").read_bytes() + b"\n")
        self.assertNotFound("1.root.json")

    def test_no_files(self) -> None:
        """A directory, a FIFO or a socket is not served, and does not block."""
        (self.folder / "2.root.json").mkdir()
        os.mkfifo(self.folder / "3.root.json")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(os.path.relpath(self.folder / "4.root.json"))
            for number in (2, 3, 4):
                self.assertNotFound(f"{number}.root.json")

    def test_not_whole(self) -> None:
        """An incomplete file is not served; then the whole one is."""
        path = self.folder / "1.root.json"
        whole = path.read_bytes()
        for part in (b"", whole[:1], whole[: len(whole) // 2], whole[:-1], bytes(len(whole))):
            path.write_bytes(part)
            self.assertNotFound("1.root.json")
        for other in (b"[]", b"{}", b"1", b'"signed"', b"[" * 100_000):
            path.write_bytes(other)
            self.assertNotFound("1.root.json")
        path.write_bytes(whole)
        self.assertEqual(self.get("1.root.json").body, whole)

    def test_unreadable(self) -> None:
        """An unreadable file gets 404 until it is readable."""
        path = self.folder / "1.root.json"
        path.chmod(0)
        with without_privileges():
            self.assertNotFound("1.root.json")
        path.chmod(0o644)
        with without_privileges():
            self.assertEqual(self.get("1.root.json").status, 200)

    def test_machine_busy(self) -> None:
        """Without free descriptors, the response is 503 and not 404."""

        def busy(_folder: Path, _name: str) -> tuple[bytes, Identity]:
            raise OSError(24, "Too many open files")

        self.get("1.root.json")
        self.patch(metadata, "read", busy)
        response = self.get("1.snapshot.json")
        self.assertEqual((response.status, response.headers["Retry-After"]), (503, "30"))
        self.assertEqual(self.get("1.root.json").status, 200, "this one is in memory")


class MemoryTests(MetadataTestCase):
    """A fleet's requests are answered from a bounded cache."""

    def test_read_once(self) -> None:
        """A file is read once per state."""
        for _ in range(3):
            self.get("timestamp.json")
            self.get("1.root.json")
        self.assertEqual(self.reads, ["timestamp.json", "1.root.json"])
        self.signed.timestamp(2, 1)
        self.get("timestamp.json")
        self.get("1.root.json")
        self.assertEqual(self.reads, ["timestamp.json", "1.root.json", "timestamp.json"])

    def test_bad_ones_too(self) -> None:
        """A file that cannot be served is read once, too."""
        self.put("2.targets.json", 100)
        (self.folder / "2.targets.json").write_bytes(b" " * 1_000_000)
        for _ in range(3):
            self.assertNotFound("2.targets.json")
        self.assertEqual(self.reads, ["2.targets.json"])

    def test_bytes(self) -> None:
        """If there are too many bytes, the least recently requested file is dropped."""
        for number in range(2, 10):
            self.put(f"{number}.targets.json", 1_500_000)
            self.get(f"{number}.targets.json")
            self.get("timestamp.json")
        self.reads.clear()
        for number in (9, 8, 7):
            self.get(f"{number}.targets.json")
        self.get("timestamp.json")
        self.assertEqual(self.reads, [])
        self.get("2.targets.json")
        self.assertEqual(self.reads, ["2.targets.json"])

    def test_replaced(self) -> None:
        """A replaced file is not counted twice."""
        for _ in range(10):
            self.put("2.targets.json", 4_000_000)
            os.utime(self.folder / "2.targets.json", ns=(0, len(self.reads)))
            self.get("2.targets.json")
        self.get("timestamp.json")
        self.reads.clear()
        self.get("2.targets.json")
        self.get("timestamp.json")
        self.assertEqual(self.reads, [])

    def test_number(self) -> None:
        """The number of files is limited, too."""
        for number in range(2, 300):
            self.put(f"{number}.snapshot.json", 100)
            self.get(f"{number}.snapshot.json")
        self.reads.clear()
        self.get("299.snapshot.json")
        self.get("2.snapshot.json")
        self.assertEqual(self.reads, ["2.snapshot.json"])
