"""The installer's log over HTTP: whole, in ranges, while it grows, and when a new one starts."""

import gc
import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.web.log import InstallerLog
from tests.helpers.http_exchange import Connection, Response, ask

TEXT = "Building release 7.\nCopying box-configuration-daemon.\n"


class InstallerLogTests(SynchronousTestCase):
    """A resource for a log in a folder."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.write_text(TEXT)
        self.resource = InstallerLog(self.path)

    def ask(self, *headers: str, method: str = "GET") -> Response:
        return ask(self.resource, method, "/", *headers)

    def test_whole(self) -> None:
        """The log is plain text, which a browser does not interpret as HTML."""
        answer = self.ask()
        self.assertEqual((answer.status, answer.text), (200, TEXT))
        self.assertEqual(answer.headers["Content-Type"], "text/plain; charset=utf-8")
        self.assertEqual(answer.headers["X-Content-Type-Options"], "nosniff")

    def test_none(self) -> None:
        """Before the first update the log is empty."""
        self.path.unlink()
        answer = self.ask()
        self.assertEqual((answer.status, answer.body), (200, b""))

    def test_unreadable(self) -> None:
        """The response for an unreadable log says so."""
        self.path.unlink()
        self.path.symlink_to(self.path.name)
        answer = self.ask()
        self.assertEqual(answer.status, 500)
        self.assertIn("The installer's log cannot be read", answer.text)

    def test_no_file(self) -> None:
        """A folder is not a log."""
        self.path.unlink()
        self.path.mkdir()
        self.assertEqual(self.ask().status, 500)

    def test_from_an_offset(self) -> None:
        """A client that follows the log gets the new part."""
        answer = self.ask("Range: bytes=9-")
        self.assertEqual((answer.status, answer.text), (206, TEXT[9:]))
        self.assertEqual(answer.headers["Content-Range"], f"bytes 9-{len(TEXT) - 1}/{len(TEXT)}")
        with self.path.open("a") as log:
            log.write("More.\n")
        answer = self.ask(f"Range: bytes={len(TEXT)}-")
        self.assertEqual((answer.status, answer.text), (206, "More.\n"))

    def test_nothing_since(self) -> None:
        """A range after the end gets 416 with the length."""
        answer = self.ask(f"Range: bytes={len(TEXT)}-")
        self.assertEqual(answer.status, 416)
        self.assertEqual(answer.headers["Content-Range"], f"bytes */{len(TEXT)}")

    def test_several_ranges(self) -> None:
        """Several ranges get the whole log."""
        answer = self.ask("Range: bytes=0-1,3-4")
        self.assertEqual((answer.status, answer.text), (200, TEXT))

    def test_head(self) -> None:
        """HEAD has no body and ignores ranges."""
        answer = self.ask("Range: bytes=0-1", method="HEAD")
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(answer.headers["Content-Length"], f"{len(TEXT)}")

    def test_long(self) -> None:
        """A long log is read at the client's speed, and the file is closed."""
        gc.collect()  # Earlier tests may have left files for the collector.
        before = len(os.listdir("/proc/self/fd"))
        self.path.write_bytes(bytes(1_000_000))
        connection = Connection(self.resource)
        connection.transport.room = 100_000
        connection.send("GET", "/")
        self.assertLess(len(connection.transport.value()), 300_000)
        connection.transport.drain()
        self.assertEqual(len(connection.response().body), 1_000_000)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_begins_again(self) -> None:
        """A log that is truncated while it is sent breaks the connection early."""
        self.path.write_bytes(bytes(1_000_000))
        connection = Connection(self.resource)
        connection.transport.room = 100_000
        connection.send("GET", "/")
        os.truncate(self.path, 0)
        connection.transport.drain()
        self.assertTrue(connection.transport.disconnected)
