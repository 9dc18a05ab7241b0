"""An archive reaches a client whole, with all that a client needs to know of it, or not at all."""

import base64
import hashlib
import os
from email.utils import formatdate
from pathlib import Path

from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.server.catalog import Catalog
from opq_twisted.server.digests import Digests
from opq_twisted.server.resources import tree
from tests.archives import make_archive
from tests.exchange import Answer, Connection, ask, chunk_by_chunk
from tests.test_catalog import name_of, open_descriptors
from tests.test_digests import Thread

VERSION = 1547860803
PATH = f"/update/{name_of(VERSION)}"
MODIFIED = 1547860805
#: More than three chunks, and no whole number of them.
LARGE = os.urandom(400_000)


class DeliveryTestCase(SynchronousTestCase):
    """One archive on offer, and a client that asks for it."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.file = make_archive(self.directory / name_of(VERSION), VERSION, {"data": LARGE})
        os.utime(self.file, (MODIFIED, MODIFIED))
        self.catalog = Catalog(self.directory)
        self.catalog.rescan()
        self.thread = Thread()
        self.addCleanup(self.thread.finish)
        self.root = tree(self.catalog, Digests(self.thread))
        self.chunks: Clock = chunk_by_chunk(self)

    def get(self, *headers: str, method: str = "GET", path: str = PATH) -> Answer:
        connection = Connection(self.root)
        connection.send(method, path, *headers)
        self.send_all()
        return connection.answer(method)

    def open_files(self) -> int:
        """Count the descriptors of files in the directory, those that lost their names included."""
        return sum(target.startswith(str(self.directory)) for target in open_descriptors())

    def send_all(self) -> None:
        while self.chunks.getDelayedCalls():
            self.chunks.advance(1)


class WholeTests(DeliveryTestCase):
    """A plain download."""

    def test_bytes(self) -> None:
        """What arrives is the file; its descriptor is closed."""
        answer = self.get()
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.body, self.file.read_bytes())
        self.assertEqual(self.open_files(), 0)

    def test_headers(self) -> None:
        """The headers that caches, browsers and boxes go by; never a Content-Encoding."""
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
        """HEAD gets what GET gets, without the body, and no file stays open."""
        got, head = self.get(), self.get(method="HEAD")
        self.assertEqual((head.status, head.body), (200, b""))
        for answer in (got, head):
            del answer.headers["Date"]
        self.assertEqual(head.headers.items(), got.headers.items())
        self.assertEqual(self.open_files(), 0)

    def test_repr_digest(self) -> None:
        """The digest is told from the moment it is known (RFC 9530)."""
        self.assertIsNone(self.get().headers["Repr-Digest"])
        self.thread.work()
        digest = base64.b64encode(hashlib.sha256(self.file.read_bytes()).digest()).decode()
        for method in ("GET", "HEAD"):
            self.assertEqual(self.get(method=method).headers["Repr-Digest"], f"sha-256=:{digest}:")

    def test_same_tag_on_another_server(self) -> None:
        """A copy that kept the time of change, as rsync makes it, has the same tag."""
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
        answer = self.get(path=f"/update/{name_of(2)}")
        self.assertEqual(answer.body, self.file.read_bytes())
        self.assertIn(name_of(2), answer.headers["Content-Disposition"])

    def test_backpressure(self) -> None:
        """A client that takes nothing gets nothing more; when it goes on, it gets the rest."""
        connection = Connection(self.root)
        connection.send("GET", PATH)
        self.chunks.advance(1)
        assert connection.transport.producer is not None
        connection.transport.producer.pauseProducing()
        self.assertTrue(connection.answer().cut)
        self.assertEqual(self.chunks.getDelayedCalls(), [])
        connection.transport.producer.resumeProducing()
        self.send_all()
        self.assertEqual(connection.answer().body, self.file.read_bytes())


class ConditionalTests(DeliveryTestCase):
    """Downloads under conditions; which one counts when is test_preconditions' matter."""

    def test_not_modified(self) -> None:
        """304: no body, no length but the archive's, and the tag to keep."""
        tag = self.get().headers["ETag"]
        for method in ("GET", "HEAD"):
            for condition in (f"If-None-Match: {tag}", f"If-Modified-Since: {formatdate()}"):
                answer = self.get(condition, method=method)
                self.assertEqual((answer.status, answer.body), (304, b""))
                self.assertEqual(answer.headers["ETag"], tag)
                self.assertIn("immutable", answer.headers["Cache-Control"])
                size = str(self.file.stat().st_size)
                self.assertIn(answer.headers["Content-Length"], (None, size))
        self.assertEqual(self.open_files(), 0)

    def test_precondition_failed(self) -> None:
        """412: nothing of the archive, and nothing that a cache would keep."""
        for method in ("GET", "HEAD"):
            answer = self.get('If-Match: "another"', method=method)
            self.assertEqual((answer.status, answer.body), (412, b""))
            for name in ("Cache-Control", "Content-Disposition", "ETag", "Repr-Digest"):
                self.assertIsNone(answer.headers[name], name)
        self.assertEqual(self.open_files(), 0)

    def test_met(self) -> None:
        """A condition that is met changes nothing."""
        tag = self.get().headers["ETag"]
        self.assertEqual(self.get(f"If-Match: {tag}").body, self.file.read_bytes())


class UnknownTests(DeliveryTestCase):
    """Names that are not in the catalog."""

    def test_not_in_the_catalog(self) -> None:
        """404 as one line of text, whatever the name looks like, and though such a file exists."""
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
            answer = self.get(path=path)
            self.assertEqual(answer.status, 404, path)
            self.assertEqual(answer.text.count("\n"), 1)
            self.assertTrue(answer.headers["Content-Type"].startswith("text/plain"))

    def test_query(self) -> None:
        """A query asks for nothing else."""
        self.assertEqual(self.get(path=f"{PATH}?from=box").status, 200)


class ChangeTests(DeliveryTestCase):
    """A file that changes behind the catalog's back."""

    def test_replaced_since_the_last_look(self) -> None:
        """What is sent is the new archive, with its own length and tag."""
        old_tag = self.get().headers["ETag"]
        make_archive(Path(self.mktemp()), VERSION).rename(self.file)
        answer = self.get()
        self.assertEqual(answer.body, self.file.read_bytes())
        self.assertNotEqual(answer.headers["ETag"], old_tag)
        self.assertEqual(self.open_files(), 0)

    def test_truncated_since_the_last_look(self) -> None:
        """What is no longer whole is not sent."""
        os.truncate(self.file, 1000)
        self.assertEqual(self.get().status, 404)
        self.assertEqual(self.open_files(), 0)

    def test_removed_since_the_last_look(self) -> None:
        """What is gone is not found, and not listed any more."""
        self.file.unlink()
        answer = self.get()
        self.assertEqual(answer.status, 404)
        self.assertIn("/ls", answer.text)
        self.assertEqual(ask(self.root, "GET", "/ls").body, b"")

    def test_fifo_in_its_place(self) -> None:
        """A FIFO that took the archive's name is not waited for."""
        self.file.unlink()
        os.mkfifo(self.file)
        self.assertEqual(self.get().status, 404)
        self.assertEqual(self.open_files(), 0)

    def test_link_in_its_place(self) -> None:
        """A link out of the directory that took the archive's name is not followed."""
        self.file.rename(outside := Path(self.mktemp()).absolute())
        self.file.symlink_to(outside)
        self.assertEqual(self.get().status, 404)
        self.assertEqual(self.open_files(), 0)

    def test_replaced_under_way(self) -> None:
        """A download that has begun goes on with the file it began with."""
        before = self.file.read_bytes()
        connection = Connection(self.root)
        connection.send("GET", PATH)
        self.chunks.advance(1)
        make_archive(Path(self.mktemp()), VERSION).rename(self.file)
        self.send_all()
        self.assertEqual(connection.answer().body, before)

    def test_truncated_under_way(self) -> None:
        """The connection is cut, so that nobody takes what came for the whole."""
        connection = Connection(self.root)
        connection.send("GET", PATH)
        self.chunks.advance(1)
        os.truncate(self.file, 1000)
        self.send_all()
        self.assertTrue(connection.transport.disconnecting)
        connection.channel.connectionLost(Failure(ConnectionLost()))
        self.assertTrue(connection.answer().cut)
        self.assertEqual(self.open_files(), 0)


class DisconnectTests(DeliveryTestCase):
    """A client that goes away."""

    def test_gone_under_way(self) -> None:
        """Its file is closed at once, and nothing more is read."""
        connection = Connection(self.root)
        connection.send("GET", PATH)
        self.chunks.advance(1)
        self.assertEqual(self.open_files(), 1)
        # A real transport does both, in this order.
        assert connection.transport.producer is not None
        connection.transport.producer.stopProducing()
        connection.channel.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.open_files(), 0)
        self.assertEqual(self.chunks.getDelayedCalls(), [])
