"""The access log has a line of JSON for each request, and never delays or fails one."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import NOT_DONE_YET

from opq_twisted.common.errors import CannotStart
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource
from opq_twisted.http.site import BoundedSite
from opq_twisted.server.access_log import AccessLog
from tests.helpers.box_fakes import logged
from tests.helpers.http_exchange import Connection


@contextmanager
def disk_of(case: SynchronousTestCase, room: int) -> Iterator[None]:
    """Limit the disk to so many bytes, like Linux: the last write is partial."""
    left = room
    write = os.write

    def write_as_far(fd: int, data: bytes) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = write(fd, data[:left])
        left -= count
        return count

    patch = case.patch(os, "write", write_as_far)
    yield
    patch.restore()


class Hello(PlainResource):
    """Replies, or keeps the request."""

    isLeaf = True

    def render_GET(self, request: BoundedRequest) -> Reply | int:
        """Reply, or keep the request."""
        return NOT_DONE_YET if request.path == b"/later" else Reply.of(200, b"hello")


class AccessLogTests(SynchronousTestCase):
    """`AccessLog`, as an observer of a site."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.path = Path(self.mktemp()).absolute()
        self.log = AccessLog(self.clock, self.path)
        self.site = BoundedSite(self.clock, Hello())
        self.site.request_observers.append(self.log.request_ended)
        self.log.startService()
        self.addCleanup(self.stop)

    def stop(self) -> None:
        if self.log.running:
            self.log.stopService()

    def ask(self, path: str = "/", *headers: str, method: str = "GET") -> Connection:
        connection = Connection(Hello(), self.site)
        connection.send(method, path, *headers)
        return connection

    def lines(self, path: Path | None = None) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (path or self.path).read_text().splitlines()]

    def test_line(self) -> None:
        """A line tells the client, the request and the response."""
        self.ask("/version?x=1", "User-Agent: opq-box-agent/1 (box 5)", "Range: bytes=0-")
        self.clock.advance(1)
        (line,) = self.lines()
        self.assertRegex(line.pop("time"), r"\A20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00\Z")
        self.assertEqual(
            line,
            {
                "client": "192.168.1.1",
                "method": "GET",
                "uri": "/version?x=1",
                "status": 200,
                "bytes": 5,
                "seconds": 0.0,
                "whole": True,
                "range": "bytes=0-",
                "agent": "opq-box-agent/1 (box 5)",
            },
        )

    def test_client_gone(self) -> None:
        """A client that went away before its response is 499, with the time that it waited."""
        connection = self.ask("/later")
        self.clock.advance(2.5)
        connection.lose()
        self.clock.advance(1)
        (line,) = self.lines()
        self.assertEqual((line["status"], line["whole"], line["seconds"]), (499, False, 2.5))

    def test_hostile(self) -> None:
        """Any request makes one line of limited length."""
        self.ask('/"\\%0a' + "a" * 7000, 'User-Agent: \x1b]0;x\x07"\xff' + "b" * 7000)
        self.clock.advance(1)
        (text,) = self.path.read_text().splitlines()
        self.assertLess(len(text), 3000)
        self.assertTrue(text.isascii() and text.isprintable())

    def test_written_together(self) -> None:
        """Lines are written a second later, or when there are many, or at the end."""
        self.ask()
        self.assertEqual(self.lines(), [])
        for _ in range(500):
            self.ask()
        self.assertEqual(len(self.lines()), 500)
        self.log.stopService()
        self.assertEqual(len(self.lines()), 501)

    def test_cut_at_the_end(self) -> None:
        """Requests that the end of the server cuts are logged, too."""
        connection = self.ask("/later")
        self.log.stopService()
        connection.lose()
        self.assertEqual([line["whole"] for line in self.lines()], [False])

    def test_rotated(self) -> None:
        """After a rotation, the new file is written."""
        self.ask()
        self.clock.advance(1)
        self.path.rename(rotated := Path(self.mktemp()))
        self.ask("/after")
        self.clock.advance(1)
        self.assertEqual(len(self.lines(rotated)), 1)
        self.assertEqual([line["uri"] for line in self.lines()], ["/after"])

    def test_cannot_be_written(self) -> None:
        """Lines that cannot be written are lost, with one warning; requests are answered."""
        said = logged(self)
        self.path.unlink()
        self.path.mkdir()
        for _ in range(3):
            self.assertEqual(self.ask().response().status, 200)
            self.clock.advance(1)
        self.assertEqual(len([text for text in said if "access log" in text]), 1)
        self.path.rmdir()
        self.ask("/again")
        self.clock.advance(1)
        self.assertEqual([line["uri"] for line in self.lines()], ["/again"])

    def test_cannot_start(self) -> None:
        """A file that cannot be opened ends the start with a sentence."""
        path = self.path / "below" / "a file"
        error = self.assertRaises(CannotStart, AccessLog, self.clock, path)
        self.assertEqual(
            str(error),
            f"Cannot write the access log {path}: Not a directory. "
            "Name another with --access-log, or turn it off with --no-access-log.",
        )

    def test_reopened(self) -> None:
        """`close` closes the file, for a rotation that sends a signal."""
        self.ask()
        self.clock.advance(1)
        self.log.close()
        before = len(os.listdir("/proc/self/fd"))
        self.ask("/after")
        self.clock.advance(1)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before + 1)
        self.assertEqual([line["uri"] for line in self.lines()], ["/", "/after"])

    def test_disk_full(self) -> None:
        """A full disk gets whole lines or none; when it has room, the log continues."""
        said = logged(self)
        with disk_of(self, 1000):
            for _ in range(5):
                for number in range(10):
                    self.ask(f"/full-{number}")
                self.clock.advance(1)
        self.assertGreater(len(self.lines()), 0)
        self.assertLess(len(self.lines()), 10)
        self.ask("/after")
        self.clock.advance(1)
        self.assertEqual(self.lines()[-1]["uri"], "/after")
        self.assertIn("The access log cannot be written", said[0])
        self.assertRegex(said[1], "is written again; up to [0-9]+ lines are missing")
        self.assertEqual(len(said), 2)

    def test_disk_full_at_the_start(self) -> None:
        """A server with a full disk starts, and writes when there is room."""

        def refuse(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        full = self.patch(os, "open", refuse)
        log = AccessLog(self.clock, self.path)
        full.restore()
        self.site.request_observers = [log.request_ended]
        log.startService()
        self.ask("/after")
        log.stopService()
        self.assertEqual([line["uri"] for line in self.lines()], ["/after"])

    def test_cut_by_a_power_cut(self) -> None:
        """An incomplete last line is not joined with the next one."""
        self.path.write_text('{"time": "20')
        self.ask("/after")
        self.clock.advance(1)
        first, second = self.path.read_text().splitlines()
        self.assertEqual((first, json.loads(second)["uri"]), ('{"time": "20', "/after"))

    def test_standard_output(self) -> None:
        """Without a file, lines go to the standard output at the start of the service."""
        log = AccessLog(self.clock, None)
        before = os.dup(1)
        with Path(self.mktemp()).open("w+b") as file:
            os.dup2(file.fileno(), 1)
            try:
                log.startService()
                self.site.request_observers = [log.request_ended]
                self.ask("/out")
                log.stopService()
            finally:
                os.dup2(before, 1)
                os.close(before)
            file.seek(0)
            self.assertEqual(json.loads(file.read())["uri"], "/out")
