"""A client gets the index of an archive as it is now, or learns when to ask again."""

import os
from email.utils import formatdate
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.pieces import Index, read_index
from opq_twisted.common import files
from opq_twisted.http.resource import PlainResource
from opq_twisted.server.catalog.archive_cache import MAX_WANTED
from opq_twisted.server.catalog.digests import Digests
from opq_twisted.server.catalog.indexes import Indexes
from opq_twisted.server.catalog.snapshot import Catalog
from opq_twisted.server.limits import Downloads
from opq_twisted.server.timestamp.state import MetadataState
from opq_twisted.server.web.long_poll import NewestVersion
from opq_twisted.server.web.resources import make_root
from tests.helpers.archives import make_archive, make_pieces_archive, name_of, random_parts
from tests.helpers.http_exchange import Connection, Response, ask
from tests.helpers.manual_thread import Thread

VERSION = 1547860803
PATH = f"/update/{name_of(VERSION)}.pieces"
MODIFIED = 1547860805


class IndexTests(SynchronousTestCase):
    """A server with an archive of pieces."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.file = self.make(VERSION, 1, 2, 3)
        self.catalog = Catalog(self.directory)
        self.catalog.rescan()
        self.thread, self.hashing = Thread(), Thread()
        self.addCleanup(self.thread.finish)
        self.addCleanup(self.hashing.finish)
        self.digests, self.indexes = Digests(self.hashing), Indexes(self.thread)
        self.metadata_state = MetadataState(present=False)
        self.root = self.make_root()

    def make_root(self, mirror: str | None = None) -> PlainResource:
        return make_root(
            self.catalog,
            self.digests,
            self.indexes,
            Downloads(10),
            NewestVersion(Clock(), self.catalog),
            mirror,
            lambda: self.metadata_state,
        )

    def make(self, version: int, *seeds: int) -> Path:
        path = self.directory / name_of(version)
        make_pieces_archive(path, version, random_parts(*seeds, size=1000))
        os.utime(path, (MODIFIED, MODIFIED))
        return path

    def get(self, *headers: str, method: str = "GET", path: str = PATH) -> Response:
        return ask(self.root, method, path, *headers)

    def get_computed(self, *headers: str, method: str = "GET", path: str = PATH) -> Response:
        """Ask again when the index is computed."""
        self.get(path=path)
        self.thread.finish()
        self.hashing.finish()
        return self.get(*headers, method=method, path=path)

    def expected(self, path: Path) -> Index:
        with path.open("rb") as file:
            return read_index(file.fileno(), path.stat().st_size)

    def assert_soon(self, response: Response) -> None:
        """It is 503 with one sentence, and is not cached."""
        self.assertEqual(response.status, 503)
        self.assertIn(response.headers["Retry-After"], ("2", "3", "4"))
        self.assertEqual(response.headers["Cache-Control"], "no-store")
        self.assertRegex(response.text, r"\A[^\n<>]{10,}\.\n\Z")

    def assert_not_now(self, response: Response) -> None:
        """It is 503, and the client is to fetch the whole archive."""
        self.assertEqual((response.status, response.headers["Retry-After"]), (503, None))
        self.assertEqual(response.headers["Cache-Control"], "no-store")
        self.assertRegex(response.text, r"\AThere is no index [^\n]+\. Fetch the whole\.\n\Z")

    def test_computed_first(self) -> None:
        """While the index is computed, the client is to ask again in a few seconds."""
        for _ in range(3):
            self.assert_soon(self.get())
        self.assertEqual(len(self.thread.waiting), 1)
        self.thread.work()
        response = self.get()
        self.assertEqual(response.status, 200)
        self.assertEqual(Index.from_json(response.body), self.expected(self.file))
        self.assertEqual(self.thread.waiting, [])

    def test_headers(self) -> None:
        """It has the archive's date and caching, but a strong entity tag of its own."""
        response = self.get_computed()
        size = self.file.stat().st_size
        expected = {
            "Content-Type": "application/json",
            "Content-Length": str(len(response.body)),
            "ETag": f'"{MODIFIED * 10**9:x}-{size:x}-pieces"',
            "Last-Modified": formatdate(MODIFIED, usegmt=True),
            "Cache-Control": "public, max-age=31536000, immutable",
            "Content-Disposition": None,
            "Content-Encoding": None,
            "Transfer-Encoding": None,
        }
        self.assertEqual({name: response.headers[name] for name in expected}, expected)
        archive = self.get(path=f"/update/{name_of(VERSION)}", method="HEAD")
        self.assertNotEqual(archive.headers["ETag"], response.headers["ETag"])

    def test_head(self) -> None:
        """HEAD has the headers of GET and no body; also while the index is computed."""
        self.assert_soon(self.get())
        later = self.get(method="HEAD")
        self.assertEqual((later.status, later.body), (503, b""))
        got, head = self.get_computed(), self.get(method="HEAD")
        self.assertEqual((head.status, head.body), (200, b""))
        for response in (got, head):
            del response.headers["Date"]
        self.assertEqual(head.headers.items(), got.headers.items())

    def test_conditions(self) -> None:
        """304 for a client that has the index, 412 if it is another one; ranges are ignored."""
        tag = self.get_computed().headers["ETag"]
        for condition in (f"If-None-Match: {tag}", f"If-Modified-Since: {formatdate()}"):
            for method in ("GET", "HEAD"):
                response = self.get(condition, method=method)
                self.assertEqual((response.status, response.body), (304, b""))
                self.assertEqual(response.headers["ETag"], tag)
                self.assertIn("immutable", response.headers["Cache-Control"])
        response = self.get('If-Match: "other"')
        self.assertEqual((response.status, response.body), (412, b""))
        self.assertEqual(response.headers["Cache-Control"], "no-store")
        self.assertEqual(self.get("Range: bytes=0-9").status, 200)
        archive = self.get(path=f"/update/{name_of(VERSION)}", method="HEAD").headers["ETag"]
        self.assertEqual(self.get(f"If-None-Match: {archive}").status, 200)

    def test_other_methods(self) -> None:
        """Only GET and HEAD are allowed."""
        response = self.get(method="POST")
        self.assertEqual((response.status, response.headers["Allow"]), (405, "GET, HEAD"))

    def test_not_verified(self) -> None:
        """An index is cached for ever only if its archive may be."""
        (self.directory / "tuf").mkdir()
        self.assertEqual(self.get_computed().headers["Cache-Control"], "no-cache")

    def test_no_index(self) -> None:
        """An archive of one piece has no index; this is computed once, and not cached."""
        make_archive(self.directory / name_of(1), 1)
        self.catalog.rescan()
        path = f"/update/{name_of(1)}.pieces"
        for _ in range(2):
            response = self.get_computed(path=path)
            self.assertEqual(response.status, 404)
            self.assertEqual(response.headers["Cache-Control"], "no-store")
            self.assertRegex(response.text, r"\AThis update has no index [^\n]+\.\n\Z")
        self.get(path=path)
        self.assertEqual(self.thread.waiting, [])

    def test_unknown_names(self) -> None:
        """Any other name gets 404 with one line of text, even if the file exists."""
        (self.directory / "secret").write_text("secret")
        for path in (
            "/update/.pieces",
            "/update/secret.pieces",
            f"/update/{name_of(1)}.pieces",
            f"{PATH}.pieces",
            f"{PATH}/",
            f"{PATH}/.pieces",
            f"/update/{name_of(VERSION)}/.pieces",
            f"{PATH}%00",
            f"{PATH}%ff",
            PATH.upper(),
            f"/update/{name_of(VERSION)}.PIECES",
            f"/update/../{name_of(VERSION)}.pieces",
            "/update/" + "a" * 8000 + ".pieces",
            f"/{name_of(VERSION)}.pieces",
        ):
            response = self.get(path=path)
            self.assertEqual(response.status, 404, path)
            self.assertEqual(response.text.count("\n"), 1)
        self.assertEqual(self.thread.waiting, [])

    def test_query(self) -> None:
        """A query is ignored."""
        self.assertEqual(self.get_computed(path=f"{PATH}?box=3").status, 200)

    def test_mirror(self) -> None:
        """With a mirror, the index is answered here."""
        self.root = self.make_root("https://mirror.example.org")
        response = self.get_computed()
        self.assertEqual(response.status, 200)
        self.assertEqual(Index.from_json(response.body), self.expected(self.file))

    def test_replaced(self) -> None:
        """A file that was replaced since its check has its own index, and never the old one."""
        self.assertEqual(self.get_computed().status, 200)
        self.make(VERSION, 3, 4)
        self.assert_soon(self.get())
        response = self.get_computed()
        self.assertEqual(Index.from_json(response.body), self.expected(self.file))

    def test_replaced_while_it_is_read(self) -> None:
        """A file that is replaced before it is read leaves no index behind."""
        self.get()
        self.make(VERSION, 3, 4)
        self.thread.work()
        self.assert_soon(self.get())
        self.assertEqual(Index.from_json(self.get_computed().body), self.expected(self.file))

    def test_removed(self) -> None:
        """A file that was removed, or is no longer whole, has no index."""
        self.assertEqual(self.get_computed().status, 200)
        self.file.write_bytes(self.file.read_bytes()[:-20])
        self.assertEqual(self.get().status, 404)
        self.make(VERSION, 1)
        self.catalog.rescan()
        self.file.unlink()
        self.assertEqual(self.get().status, 404)
        self.assertEqual(self.thread.waiting, [])

    def test_unreadable(self) -> None:
        """After a disk error, the client is to fetch the whole archive; nothing is read for now."""

        def fail(fd: int, size: int, each_chunk: object) -> bytes:
            raise OSError(5, "Input/output error")

        self.patch(self.indexes, "compute", fail)
        self.assert_soon(self.get())
        self.thread.work()
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        for _ in range(3):
            self.assert_not_now(self.get())
        self.assertEqual(self.thread.waiting, [])

    def test_busy_machine(self) -> None:
        """Without a free descriptor, the client is to fetch the whole archive."""

        def fail(path: Path, follow_links: bool = True) -> None:
            raise OSError(24, "Too many open files")

        self.patch(files, "open_regular", fail)
        self.assert_not_now(self.get())

    def test_many_archives(self) -> None:
        """A client that asks for very many indexes fills a short queue, and one thread."""
        versions = range(1, 10 * MAX_WANTED)
        for version in versions:
            self.make(version, version)
        self.catalog.rescan()
        soon = 0
        for version in versions:
            response = self.get(path=f"/update/{name_of(version)}.pieces")
            soon += "Retry-After" in response.headers
        self.assertEqual(soon, MAX_WANTED)
        self.assertEqual(len(self.thread.waiting), 1)

    def test_slow_client(self) -> None:
        """A client that does not read is no reason to copy a large index for it."""
        self.make(VERSION, *range(2500))
        self.assertGreater(len(self.get_computed().body), 100_000)
        connection = Connection(self.root)
        connection.transport.room = 1000
        connection.send("GET", PATH)
        self.assertLess(len(connection.transport.value()), 70_000)
        connection.transport.drain()
        self.assertEqual(Index.from_json(connection.response().body), self.expected(self.file))
