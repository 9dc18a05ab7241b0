"""A client gets the whole archive and its headers, or an error."""

import base64
import email.policy
import hashlib
import os
from email.utils import formatdate
from pathlib import Path

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.server.catalog.digests import Digests
from opq_twisted.server.catalog.indexes import Indexes
from opq_twisted.server.catalog.snapshot import Catalog
from opq_twisted.server.limits import Downloads
from opq_twisted.server.web.long_poll import NewestVersion
from opq_twisted.server.web.resources import make_root
from opq_twisted.server.web.sendfile import MIN_RATE, WINDOW
from tests.helpers.archives import make_archive, name_of
from tests.helpers.http_exchange import Connection, Response, ask
from tests.helpers.manual_thread import Thread
from tests.helpers.process import open_descriptors

VERSION = 1547860803
PATH = f"/update/{name_of(VERSION)}"
MODIFIED = 1547860805
#: Bytes: more than three chunks, and not a multiple of a chunk.
LARGE = os.urandom(900_000)


class ArchiveTestCase(SynchronousTestCase):
    """A server with one archive, and a client that requests it."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.file = make_archive(self.directory / name_of(VERSION), VERSION, {"data": LARGE})
        os.utime(self.file, (MODIFIED, MODIFIED))
        self.catalog = Catalog(self.directory)
        self.catalog.rescan()
        self.thread = Thread()
        self.addCleanup(self.thread.finish)
        self.downloads = Downloads(10, lambda: 0.5)
        self.root = make_root(
            self.catalog,
            Digests(self.thread),
            Indexes(self.thread),
            self.downloads,
            NewestVersion(Clock(), self.catalog),
        )

    def get(self, *headers: str, method: str = "GET", path: str = PATH) -> Response:
        connection = Connection(self.root)
        connection.send(method, path, *headers)
        return connection.response(method)

    def begin(self, *headers: str, host: str = "192.0.2.1") -> Connection:
        """Request the archive as a client that reads about half of it for now."""
        connection = Connection(self.root, address=IPv4Address("TCP", host, 50_000))
        connection.transport.room = len(LARGE) // 2
        connection.send("GET", PATH, *headers)
        self.assertTrue(connection.response().cut)
        return connection

    def open_files(self) -> int:
        """Count the open files in the directory, including removed ones."""
        return sum(target.startswith(str(self.directory)) for target in open_descriptors())


class WholeTests(ArchiveTestCase):
    """A plain download."""

    def test_bytes(self) -> None:
        """The body is the file, and its descriptor is closed."""
        response = self.get()
        self.assertEqual(response.status, 200)
        self.assertEqual(response.body, self.file.read_bytes())
        self.assertEqual(self.open_files(), 0)

    def test_headers(self) -> None:
        """The headers for caches, browsers and boxes; never a Content-Encoding."""
        headers = self.get().headers
        size = self.file.stat().st_size
        expected = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(size),
            "Content-Disposition": f'attachment; filename="{name_of(VERSION)}"',
            "ETag": f'"{MODIFIED * 10**9:x}-{size:x}"',
            "Last-Modified": formatdate(MODIFIED, usegmt=True),
            "Cache-Control": "public, max-age=31536000, immutable",
            "Content-Encoding": None,
            "Transfer-Encoding": None,
        }
        self.assertEqual({name: headers[name] for name in expected}, expected)

    def test_head(self) -> None:
        """HEAD has the headers of GET and no body, and leaves no file open."""
        got, head = self.get(), self.get(method="HEAD")
        self.assertEqual((head.status, head.body), (200, b""))
        for response in (got, head):
            del response.headers["Date"]
        self.assertEqual(head.headers.items(), got.headers.items())
        self.assertEqual(self.open_files(), 0)

    def test_repr_digest(self) -> None:
        """The digest is sent as soon as it is known (RFC 9530)."""
        self.assertIsNone(self.get().headers["Repr-Digest"])
        self.thread.work()
        digest = base64.b64encode(hashlib.sha256(self.file.read_bytes()).digest()).decode()
        for method in ("GET", "HEAD"):
            self.assertEqual(self.get(method=method).headers["Repr-Digest"], f"sha-256=:{digest}:")

    def test_same_tag_on_another_server(self) -> None:
        """A copy with the same modification time, as rsync makes it, has the same entity tag."""
        tag = self.get().headers["ETag"]
        copy = Path(self.mktemp())
        copy.write_bytes(self.file.read_bytes())
        os.utime(copy, (MODIFIED, MODIFIED))
        copy.replace(self.file)
        self.assertEqual(self.get().headers["ETag"], tag)

    def test_link(self) -> None:
        """A link within the directory is downloaded under its own name."""
        (self.directory / name_of(2)).symlink_to(name_of(VERSION))
        self.catalog.rescan()
        response = self.get(path=f"/update/{name_of(2)}")
        self.assertEqual(response.body, self.file.read_bytes())
        self.assertIn(name_of(2), response.headers["Content-Disposition"])

    def test_backpressure(self) -> None:
        """A client that stops reading gets no more; when it continues, it gets the rest."""
        connection = self.begin()
        self.assertLess(len(connection.transport.value()), len(LARGE) * 0.75)
        connection.transport.drain()
        self.assertEqual(connection.response().body, self.file.read_bytes())


class ConditionalTests(ArchiveTestCase):
    """Conditional downloads; test_conditional has the order of the conditions."""

    def test_not_modified(self) -> None:
        """304 has no body, no length but the archive's, and the entity tag."""
        tag = self.get().headers["ETag"]
        for method in ("GET", "HEAD"):
            for condition in (f"If-None-Match: {tag}", f"If-Modified-Since: {formatdate()}"):
                response = self.get(condition, method=method)
                self.assertEqual((response.status, response.body), (304, b""))
                self.assertEqual(response.headers["ETag"], tag)
                self.assertIn("immutable", response.headers["Cache-Control"])
                size = str(self.file.stat().st_size)
                self.assertIn(response.headers["Content-Length"], (None, size))
        self.assertEqual(self.open_files(), 0)

    def test_precondition_failed(self) -> None:
        """412 has nothing of the archive, and is not cached."""
        for method in ("GET", "HEAD"):
            response = self.get('If-Match: "another"', method=method)
            self.assertEqual((response.status, response.body), (412, b""))
            for name in ("Content-Disposition", "ETag", "Repr-Digest"):
                self.assertIsNone(response.headers[name], name)
            self.assertEqual(response.headers["Cache-Control"], "no-store")
        self.assertEqual(self.open_files(), 0)

    def test_met(self) -> None:
        """A condition that is met changes nothing."""
        tag = self.get().headers["ETag"]
        self.assertEqual(self.get(f"If-Match: {tag}").body, self.file.read_bytes())


class UnknownTests(ArchiveTestCase):
    """Names that are not in the catalog."""

    def test_not_in_the_catalog(self) -> None:
        """Any such name gets 404 with one line of text, even if the file exists."""
        (self.directory / "secret").write_text("secret")
        for path in (
            "/update/secret",
            "/update/",
            "/update",
            f"/update/{name_of(1)}",
            f"/update/{name_of(VERSION)}/",
            f"/update//{name_of(VERSION)}",
            f"/update/./{name_of(VERSION)}",
            f"/update/x/../{name_of(VERSION)}",
            f"/update/..%2f{self.directory.name}%2f{name_of(VERSION)}",
            f"/update/{name_of(VERSION)}%00",
            f"/update/%00{name_of(VERSION)}",
            f"/update/{name_of(VERSION).upper()}",
            "/update/%ff%fe",
            "/update/" + "a" * 8000,
        ):
            response = self.get(path=path)
            self.assertEqual(response.status, 404, path)
            self.assertEqual(response.text.count("\n"), 1)
            self.assertTrue(response.headers["Content-Type"].startswith("text/plain"))

    def test_query(self) -> None:
        """A query is ignored."""
        self.assertEqual(self.get(path=f"{PATH}?from=box").status, 200)


class ChangeTests(ArchiveTestCase):
    """Files that have changed since the catalog checked them."""

    def test_replaced_since_the_last_check(self) -> None:
        """The new archive is sent, with its own length and entity tag."""
        old_tag = self.get().headers["ETag"]
        make_archive(Path(self.mktemp()), VERSION).rename(self.file)
        response = self.get()
        self.assertEqual(response.body, self.file.read_bytes())
        self.assertNotEqual(response.headers["ETag"], old_tag)
        self.assertEqual(self.open_files(), 0)

    def test_truncated_since_the_last_check(self) -> None:
        """A file that is no longer whole is not sent."""
        os.truncate(self.file, 1000)
        self.assertEqual(self.get().status, 404)
        self.assertEqual(self.open_files(), 0)

    def test_removed_since_the_last_check(self) -> None:
        """A removed archive gets 404, and is no longer listed."""
        self.file.unlink()
        response = self.get()
        self.assertEqual(response.status, 404)
        self.assertIn("/ls", response.text)
        self.assertEqual(ask(self.root, "GET", "/ls").body, b"")

    def test_fifo_in_its_place(self) -> None:
        """A FIFO in the place of the archive does not block."""
        self.file.unlink()
        os.mkfifo(self.file)
        self.assertEqual(self.get().status, 404)
        self.assertEqual(self.open_files(), 0)

    def test_link_in_its_place(self) -> None:
        """A link out of the directory in the place of the archive is not followed."""
        self.file.rename(outside := Path(self.mktemp()).absolute())
        self.file.symlink_to(outside)
        self.assertEqual(self.get().status, 404)
        self.assertEqual(self.open_files(), 0)


class DisconnectTests(ArchiveTestCase):
    """Clients that go away, or read too slowly."""

    def test_gone_under_way(self) -> None:
        """The file is closed at once, and nothing more is read."""
        connection = self.begin()
        self.assertEqual(self.open_files(), 1)
        before = len(connection.transport.value())
        connection.lose()
        self.assertEqual(self.open_files(), 0)
        self.assertEqual(len(connection.transport.value()), before)
        self.assertEqual(self.downloads.under_way, {})
        self.assertEqual(self.downloads.cut, {VERSION: 1})

    def test_stalled(self) -> None:
        """A client below the minimum rate is cut off; one at the minimum is not."""
        connection = self.begin()
        connection.advance(WINDOW)
        self.assertFalse(connection.transport.disconnected)
        self.take(connection, WINDOW * MIN_RATE)
        connection.advance(WINDOW)
        self.assertFalse(connection.transport.disconnected)
        self.take(connection, 1)
        connection.advance(WINDOW)
        self.assertTrue(connection.transport.disconnected)

    def take(self, connection: Connection, size: int) -> None:
        """Let the client read this many bytes more, and what is sent with them."""
        connection.transport.room = len(connection.transport.value()) + size
        assert connection.transport.producer is not None
        connection.transport.producer.resumeProducing()


class RangeTests(ArchiveTestCase):
    """Parts of an archive; test_ranges has the syntax of the header."""

    def setUp(self) -> None:
        super().setUp()
        self.whole = self.file.read_bytes()
        self.size = len(self.whole)
        self.tag = self.get().headers["ETag"]

    def test_accepted(self) -> None:
        """`Accept-Ranges` tells a client that it may resume."""
        for method in ("GET", "HEAD"):
            self.assertEqual(self.get(method=method).headers["Accept-Ranges"], "bytes")

    def test_single(self) -> None:
        """206 has these bytes, their place, and all headers of the whole response."""
        response = self.get("Range: bytes=100000-300000")
        self.assertEqual((response.status, response.body), (206, self.whole[100_000:300_001]))
        self.assertEqual(response.headers["Content-Range"], f"bytes 100000-300000/{self.size}")
        self.assertEqual(response.headers["Content-Length"], "200001")
        whole = self.get().headers
        for name in ("ETag", "Last-Modified", "Cache-Control", "Content-Type", "Accept-Ranges"):
            self.assertEqual(response.headers[name], whole[name])

    def test_resumed_at_any_byte(self) -> None:
        """The bytes before a cut and the bytes after it make the archive."""
        for offset in (1, 65_535, 65_536, self.size - 1):
            response = self.get(f"Range: bytes={offset}-", f"If-Range: {self.tag}")
            self.assertEqual(response.status, 206)
            self.assertEqual(self.whole[:offset] + response.body, self.whole)

    def test_suffix(self) -> None:
        """A suffix range gives the last bytes."""
        self.assertEqual(self.get("Range: bytes=-7").body, self.whole[-7:])

    def test_multiple(self) -> None:
        """Several ranges are sent as parts with their places, in the requested order."""
        response = self.get("Range: bytes=100-199, 0-0, -5")
        self.assertEqual(response.status, 206)
        self.assertEqual(int(response.headers["Content-Length"]), len(response.body))
        self.assertIsNone(response.headers["Content-Range"])
        message = email.message_from_bytes(
            f"Content-Type: {response.headers['Content-Type']}\r\n\r\n".encode() + response.body,
            policy=email.policy.HTTP,
        )
        self.assertEqual(message.get_content_type(), "multipart/byteranges")
        got = [
            (part["Content-Type"], part["Content-Range"], part.get_payload(decode=True))
            for part in message.iter_parts()
        ]
        size = self.size
        octets = "application/octet-stream"
        expected = [
            (octets, f"bytes 100-199/{size}", self.whole[100:200]),
            (octets, f"bytes 0-0/{size}", self.whole[:1]),
            (octets, f"bytes {size - 5}-{size - 1}/{size}", self.whole[-5:]),
        ]
        self.assertEqual(got, expected)

    def test_one_left_of_several(self) -> None:
        """If only one of them is satisfiable, it is sent alone."""
        response = self.get(f"Range: bytes={self.size}-, 0-9")
        self.assertEqual((response.status, response.body), (206, self.whole[:10]))
        self.assertEqual(response.headers["Content-Range"], f"bytes 0-9/{self.size}")

    def test_unsatisfiable(self) -> None:
        """416 has the true length."""
        response = self.get(f"Range: bytes={self.size}-")
        self.assertEqual(response.status, 416)
        self.assertEqual(response.headers["Content-Range"], f"bytes */{self.size}")
        self.assertEqual(response.headers["Cache-Control"], "no-store")
        self.assertEqual(self.open_files(), 0)

    def test_head(self) -> None:
        """HEAD ignores ranges."""
        response = self.get("Range: bytes=0-9", method="HEAD")
        self.assertEqual(
            (response.status, response.headers["Content-Length"]), (200, str(self.size))
        )

    def test_not_the_same_file(self) -> None:
        """A client with a part of another file gets the whole file."""
        for validator in ('"another"', f"W/{self.tag}", formatdate(MODIFIED - 1, usegmt=True)):
            response = self.get("Range: bytes=10-", f"If-Range: {validator}")
            self.assertEqual((response.status, response.body), (200, self.whole))

    def test_preconditions_first(self) -> None:
        """A range counts only if the response would be 200 without it."""
        for condition, status in ((f"If-None-Match: {self.tag}", 304), ('If-Match: "x"', 412)):
            response = self.get("Range: bytes=0-9", condition)
            self.assertEqual((response.status, response.body), (status, b""))

    def test_truncated_under_way(self) -> None:
        """A part is cut, too, if the file changes."""
        connection = Connection(self.root)
        connection.transport.room = 100_000
        connection.send("GET", PATH, "Range: bytes=1000-300000")
        os.truncate(self.file, 200_000)
        connection.transport.drain()
        self.assertTrue(connection.transport.disconnecting)
        connection.lose()
        self.assertTrue(connection.response().cut)


class BusyTests(ArchiveTestCase):
    """A download that is not possible now gets 503, and the time of a retry."""

    def assertLater(self, response: Response) -> None:
        self.assertEqual(response.status, 503)
        self.assertEqual(response.headers["Retry-After"], "35")
        self.assertRegex(response.text, r"\A[^\n]+ Try again in a little while\.\n\Z")
        self.assertEqual(self.open_files(), 0)

    def test_too_many(self) -> None:
        """Downloads over the limit get 503; HEAD, conditions and other paths are not affected."""
        self.downloads = Downloads(1, lambda: 0.5)
        self.root = make_root(
            self.catalog,
            Digests(self.thread),
            Indexes(self.thread),
            self.downloads,
            NewestVersion(Clock(), self.catalog),
        )
        first = self.begin()
        refused = self.get()
        self.assertEqual((refused.status, refused.headers["Retry-After"]), (503, "35"))
        self.assertEqual(self.downloads.rejected, 1)
        self.assertEqual(self.get(method="HEAD").status, 200)
        self.assertEqual(self.get(path="/version").status, 200)
        first.transport.drain()
        self.assertEqual(self.get().status, 200)
        self.assertEqual(self.downloads.completed, {VERSION: 2})

    def test_too_many_of_one(self) -> None:
        """One client may have a quarter of the downloads; others are still served."""
        first, _second = self.begin(), self.begin()
        third = Connection(self.root, address=IPv4Address("TCP", "192.0.2.1", 50_000))
        third.send("GET", PATH)
        self.assertEqual(third.response().status, 503)
        self.begin(host="192.0.2.2")
        first.transport.drain()
        self.begin()
        self.assertEqual(self.downloads.rejected, 1)

    def test_directory_gone(self) -> None:
        """While the directory cannot be read, its archives are not sent, but stay on offer."""
        self.directory.rename(away := Path(self.mktemp()).absolute())
        self.assertLater(self.get())
        self.assertEqual(self.get(path="/version").body, str(VERSION).encode())
        self.assertEqual(self.get(path="/").status, 503)
        away.rename(self.directory)
        self.assertEqual(self.get().status, 200)

    def test_begun_before(self) -> None:
        """A download under way is completed, although the directory has gone."""
        before = self.file.read_bytes()
        connection = self.begin()
        self.thread.work()
        self.directory.rename(self.mktemp())
        connection.transport.drain()
        self.assertEqual(connection.response().body, before)
