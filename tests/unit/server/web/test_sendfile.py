"""Over real sockets, an archive is sent completely and in order, or the connection is cut."""

import errno
import os
import socket
import ssl
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from opq_twisted.http.port import make_endpoint
from opq_twisted.http.site import BoundedSite
from opq_twisted.server.catalog.digests import Digests
from opq_twisted.server.catalog.indexes import Indexes
from opq_twisted.server.catalog.snapshot import Catalog
from opq_twisted.server.limits import Downloads
from opq_twisted.server.web import sendfile
from opq_twisted.server.web.long_poll import NewestVersion
from opq_twisted.server.web.resources import make_root
from tests.helpers.archives import make_archive, make_large_archive, name_of
from tests.helpers.certificates import make_certificate
from tests.helpers.http_exchange import Response, parse, parse_all
from tests.helpers.process import open_descriptors

#: Seconds after which a client that gets nothing gives up.
TIMEOUT = 20

#: Bytes: more than the socket buffers of both ends.
LARGE = 24_000_000

PATH = f"/update/{name_of(1)}"

_T = TypeVar("_T")


def request(*headers: str, path: str = PATH) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


@cache
def _whole() -> bytes:
    with TemporaryDirectory() as folder:
        return make_large_archive(Path(folder, "large"), LARGE).read_bytes()


class SocketTestCase(TestCase):
    """A large archive on a real port; a test's clock drives the deadlines."""

    def setUp(self) -> Deferred[None]:  # type: ignore[override]
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.file = self.directory / name_of(1)
        self.whole = _whole()
        self.file.write_bytes(self.whole)
        return Deferred.fromCoroutine(self.listen())

    async def listen(self) -> None:
        self.catalog = Catalog(self.directory)
        self.catalog.rescan()
        self.clock = Clock()
        self.downloads = Downloads(100)
        version = NewestVersion(self.clock, self.catalog)
        root = make_root(
            self.catalog, Digests(maybeDeferred), Indexes(maybeDeferred), self.downloads, version
        )
        self.site = BoundedSite(self.clock, root)
        self.port = await self.make_endpoint(self.endpoint()).listen(self.site)

    async def tearDown(self) -> None:  # type: ignore[override]
        await self.port.stopListening()
        await self.no_client_left()

    def endpoint(self) -> str:
        return "tcp:0:interface=127.0.0.1"

    def make_endpoint(self, description: str) -> Any:
        return serverFromString(reactor, description)

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        client = socket.socket()
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(TIMEOUT)
        client.connect(("127.0.0.1", self.port.getHost().port))
        return client

    async def client(self, work: Callable[[socket.socket], _T], small: bool = False) -> _T:
        """Let a client work in a thread, and close its connection at the end."""

        def run() -> _T:
            with self.connect(4096 if small else None) as client:
                return work(client)

        result: _T = await deferToThread(run)
        return result

    async def get(self, *headers: str, small: bool = False) -> Response:
        def work(client: socket.socket) -> bytes:
            client.sendall(request(*headers, "Connection: close"))
            return read_to_end(client)

        return parse(await self.client(work, small))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the server has noticed something."""
        while not condition():
            await deferLater(reactor, 0.005)

    async def no_client_left(self) -> None:
        await self.until(lambda: not self.site.channels)

    def open_files(self) -> int:
        return sum(target.startswith(str(self.directory)) for target in open_descriptors())


def read_answer(client: socket.socket) -> bytes:
    """Read exactly one short response."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += client.recv(1)
    left = parse(received).headers["Content-Length"]
    while int(left) > len(received.partition(b"\r\n\r\n")[2]):
        received += client.recv(1)
    return received


def read_to_end(client: socket.socket, at_once: int = 1_000_000) -> bytes:
    received = bytearray()
    while data := client.recv(at_once):
        received += data
    return bytes(received)


def read_exactly(client: socket.socket, size: int) -> bytes:
    """Read exactly so many bytes."""
    received = b""
    while len(received) < size:
        received += client.recv(size - len(received))
    return received


class PlainTests(SocketTestCase):
    """Over plain TCP."""

    sends_by_kernel = True

    async def test_whole(self) -> None:
        """Every byte arrives in order, by sendfile(2) over plain TCP; nothing stays open."""
        calls = []
        sendfile = os.sendfile

        def counted(*arguments: int) -> int:
            calls.append(arguments)
            return sendfile(*arguments)

        self.patch(os, "sendfile", counted)
        response = await self.get()
        self.assertTrue(response.body == self.whole)
        self.assertEqual(bool(calls), self.sends_by_kernel)
        await self.no_client_left()
        self.assertEqual(self.open_files(), 0)
        self.assertEqual(self.downloads.bytes_sent, len(self.whole))
        self.assertEqual(self.downloads.completed, {1: 1})

    async def test_unreadable(self) -> None:
        """A read error cuts the download, and so does a read without bytes."""

        def fail(*_: int) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

        self.patch(os, "sendfile", fail)
        for pread in (fail, lambda *_: b""):
            self.patch(os, "pread", pread)
            self.assertTrue((await self.get()).cut)
        # The digest of the archive fails, too.
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        await self.no_client_left()
        self.assertEqual(self.downloads.cut, {1: 2})

    async def test_parts(self) -> None:
        """One range, or several with lines between them."""
        part = await self.get("Range: bytes=1000000-20000000")
        self.assertTrue(part.body == self.whole[1_000_000:20_000_001])
        parts = await self.get("Range: bytes=0-9999999, 12000000-12000000, -5000000")
        boundary = parts.headers["Content-Type"].partition("boundary=")[2]
        size, expected = len(self.whole), b""
        for first, last in ((0, 9_999_999), (12_000_000, 12_000_000), (size - 5_000_000, size - 1)):
            expected += (
                f"\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n"
                f"Content-Range: bytes {first}-{last}/{size}\r\n\r\n"
            ).encode() + self.whole[first : last + 1]
        self.assertTrue(parts.body == expected + f"\r\n--{boundary}--\r\n".encode())

    async def test_slow_reader(self) -> None:
        """A client with a small receive buffer gets the same."""
        self.assertTrue((await self.get(small=True)).body == self.whole)

    async def test_many_at_once(self) -> None:
        """Simultaneous downloads do not mix."""
        ranges = [(n * 1_000_000, n * 1_000_000 + 8_000_000) for n in range(16)]
        getting = [
            Deferred.fromCoroutine(self.get(f"Range: bytes={first}-{last}"))
            for first, last in ranges
        ]
        for (first, last), got in zip(ranges, getting, strict=True):
            self.assertTrue((await got).body == self.whole[first : last + 1])

    async def test_pipelined(self) -> None:
        """Pipelined requests are answered in order on one connection."""

        def work(client: socket.socket) -> bytes:
            client.sendall(
                request("Range: bytes=5-5000004")
                + request(path="/version")
                + request("Range: bytes=0-0, 9-9")
                + request()
                + request("Connection: close", path="/ls")
            )
            return read_to_end(client)

        responses = parse_all(await self.client(work))
        self.assertEqual([response.status for response in responses], [206, 200, 206, 200, 200])
        self.assertTrue(responses[0].body == self.whole[5:5_000_005])
        self.assertEqual(responses[1].body, b"1")
        self.assertTrue(responses[3].body == self.whole)

    async def test_keep_alive_after_a_part(self) -> None:
        """A connection stays usable after a range."""

        def work(client: socket.socket) -> bytes:
            received = b""
            for number in range(20):
                client.sendall(request(f"Range: bytes={number}-{number + 9}"))
                received += read_answer(client)
            return received

        bodies = [response.body for response in parse_all(await self.client(work))]
        self.assertEqual(bodies, [self.whole[n : n + 10] for n in range(20)])

    async def test_vanishing_readers(self) -> None:
        """A client that closes or resets at any byte leaves nothing open."""
        for count in (0, 1, 100, 400, 70_000, 3_000_000):
            for reset in (False, True):

                def work(client: socket.socket, count: int = count, reset: bool = reset) -> None:
                    client.sendall(request())
                    left = count
                    while left:
                        left -= len(client.recv(min(left, 100_000)))
                    if reset:
                        client.setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                        )

                await self.client(work)
                await self.no_client_left()
                self.assertEqual(self.open_files(), 0)
        self.assertEqual(self.downloads.under_way, {})
        self.assertTrue((await self.get()).body == self.whole)

    async def stalled(self) -> socket.socket:
        """A client that has read some of its response, and has stopped reading."""
        client = await deferToThread(self.connect, 4096)
        self.addCleanup(client.close)
        await deferToThread(client.sendall, request("Connection: close"))
        self.received = await deferToThread(client.recv, 1000)
        sent = -1
        while self.downloads.bytes_sent != sent:
            sent = self.downloads.bytes_sent
            await deferLater(reactor, 0.05)
        self.assertLess(sent, LARGE)
        return client

    async def rest(self, client: socket.socket) -> Response:
        received = await deferToThread(read_to_end, client)
        client.close()
        return parse(self.received + received)

    async def test_nothing_waits_in_this_process(self) -> None:
        """The file is not read ahead of a stalled client."""
        client = await self.stalled()
        (channel,) = self.site.channels
        held = channel.transport
        while hasattr(held, "transport"):
            held = held.transport
        waiting = len(held.dataBuffer) + held._tempDataLen
        self.assertLessEqual(waiting, 0 if self.sends_by_kernel else 200_000)
        self.assertTrue((await self.rest(client)).body == self.whole)

    async def test_replaced_under_way(self) -> None:
        """After a replacement, a download goes on with the old file; the next gets the new one."""
        client = await self.stalled()
        make_archive(Path(self.mktemp()), 1).rename(self.file)
        self.assertTrue((await self.rest(client)).body == self.whole)
        self.assertEqual((await self.get()).body, self.file.read_bytes())

    async def test_removed_under_way(self) -> None:
        """The same after a removal."""
        client = await self.stalled()
        self.file.unlink()
        self.assertTrue((await self.rest(client)).body == self.whole)

    async def test_truncated_under_way(self) -> None:
        """After a truncation the response is cut, and has only bytes of the file."""
        client = await self.stalled()
        os.truncate(self.file, LARGE - 1000)
        response = await self.rest(client)
        self.assertTrue(response.cut)
        self.assertTrue(self.whole.startswith(response.body))

    async def test_overwritten_under_way(self) -> None:
        """After the file is overwritten with one of the same length, the response is cut."""
        client = await self.stalled()
        self.file.write_bytes(bytes(len(self.whole)))
        response = await self.rest(client)
        self.assertTrue(response.cut)

    async def test_written_to_in_place(self) -> None:
        """The same if all but the last byte had been sent already."""
        small = make_large_archive(self.directory / name_of(2), 300_000)
        before = small.read_bytes()
        self.catalog.rescan()
        client = await deferToThread(self.connect, 4096)
        self.addCleanup(client.close)
        ask = request("Connection: close", path=f"/update/{small.name}")
        await deferToThread(client.sendall, ask)
        self.received = await deferToThread(client.recv, 100)
        await self.until(lambda: self.downloads.bytes_sent >= len(before) - 1)
        with small.open("r+b") as file:
            file.seek(10)
            file.write(bytes(len(before) - 20))
        response = await self.rest(client)
        self.assertTrue(response.cut or (response.body == before and not self.sends_by_kernel))

    async def test_slow_for_ever(self) -> None:
        """A client that reads a byte now and then is cut off; a slow but steady one is not."""
        client = await self.stalled()
        for _ in range(3):
            await deferToThread(read_exactly, client, 500_000)
            self.pass_the_limit()
            self.assertTrue(self.site.channels)
        await deferToThread(read_exactly, client, 3_000)
        # Bytes that were read before may be acknowledged in the first of these windows.
        for _ in range(3):
            self.pass_the_limit()
        await self.no_client_left()
        self.assertEqual(self.open_files(), 0)
        self.assertEqual(self.downloads.cut, {1: 1})

    def pass_the_limit(self) -> None:
        self.clock.advance(sendfile.WINDOW)
        self.site.sweep()


class OtherTransportTests(PlainTests):
    """Over Twisted's own TLS, where the bytes are read and written to the transport."""

    sends_by_kernel = False

    def endpoint(self) -> str:
        key, certificate = Path(self.mktemp()), Path(self.mktemp())
        make_certificate(key, certificate)
        return f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(super().connect(receive_buffer))


class TLSTests(OtherTransportTests):
    """Over TLS, where the bytes are read, encrypted and written to the socket."""

    def make_endpoint(self, description: str) -> Any:
        return make_endpoint(description)

    async def test_many_downloads(self) -> None:
        """The same with the smaller chunks of many downloads."""
        self.patch(sendfile, "_FEW", 0)
        self.assertTrue((await self.get()).body == self.whole)
        self.assertTrue((await self.get(small=True)).body == self.whole)


class NoSendfileTests(SocketTestCase):
    """Over plain TCP, if sendfile(2) does not work."""

    async def test_without_sendfile(self) -> None:
        """The bytes are read and written instead."""
        calls = []

        def refuse(*_: int) -> int:
            calls.append(number)
            if number == 0:
                return 0
            raise OSError(number, os.strerror(number))

        self.patch(os, "sendfile", refuse)
        for number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EIO, 0):
            response = await self.get()
            self.assertTrue(response.body == self.whole, number)
            part = await self.get("Range: bytes=1000000-3000000, -10")
            self.assertFalse(part.cut)
            self.assertIn(self.whole[1_000_000:3_000_001], part.body)
        # Each download tries once.
        self.assertEqual(len(calls), 12)
        await self.no_client_left()
        self.assertEqual(self.open_files(), 0)

    async def test_stops_half_way(self) -> None:
        """The same if sendfile(2) fails in the middle of the file."""
        sendfile = os.sendfile

        def tire(out: int, file: int, offset: int, count: int) -> int:
            if offset > 5_000_000:
                raise OSError(errno.EINVAL, "Invalid argument")
            return sendfile(out, file, offset, min(count, 700_000))

        self.patch(os, "sendfile", tire)
        self.assertTrue((await self.get()).body == self.whole)
        self.assertTrue((await self.get(small=True)).body == self.whole)
