"""A server sends the chain of its certificate, and uses a renewed one while it runs."""

import errno
import os
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.server import Site

from opq_twisted.common import files
from opq_twisted.http.port import make_endpoint
from opq_twisted.http.tls import parse_ssl
from tests.helpers.certificates import Issued, issue, make_certificate
from tests.helpers.resources import hello


class ServingTests(TestCase):
    """A client that knows only the root authority."""

    async def listen(self, extra_chain: bool = False) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.root = issue("Root", authority=True)
        self.intermediate = issue("Intermediate", self.root, authority=True)
        self.key, self.certificate = self.folder / "key.pem", self.folder / "fullchain.pem"
        self.chain = self.folder / "chain.pem"
        self.chain.write_bytes(self.intermediate.pem)
        self.current = self.renew()
        words = [
            *("ssl", "0", "interface=127.0.0.1", f"privateKey={self.key}"),
            f"certKey={self.certificate}",
            *([f"extraCertChain={self.chain}"] if extra_chain else []),
        ]
        endpoint = make_endpoint(":".join(words))
        self.port: IListeningPort = await endpoint.listen(Site(hello()))
        self.addCleanup(self.port.stopListening)

    def renew(self) -> Issued:
        """Replace the certificate and its key, as a client of the authority does."""
        issued = issue("updates.invalid", self.intermediate)
        self.replace(self.certificate, issued.pem + self.intermediate.pem)
        self.replace(self.key, issued.key_pem())
        return issued

    def replace(self, path: Path, content: bytes) -> None:
        new = path.with_suffix(".new")
        new.write_bytes(content)
        os.replace(new, path)

    def serial(self) -> int:
        """Connect, verify the server, and give the serial number of its certificate."""
        context = ssl.create_default_context(cadata=self.root.pem.decode())
        with (
            socket.create_connection(("127.0.0.1", self.port.getHost().port)) as plain,  # type: ignore[attr-defined]
            context.wrap_socket(plain, server_hostname="updates.invalid") as secure,
        ):
            return int(secure.getpeercert()["serialNumber"], 16)  # type: ignore[arg-type, index]

    def serves(self, issued: Issued) -> "Deferred[None]":
        """A new connection gets this certificate."""
        return deferToThread(self.serial).addCallback(
            self.assertEqual, issued.certificate.serial_number
        )

    def warnings(self, events: Sequence[LogEvent]) -> list[str]:
        lines = (formatEvent(event) or "" for event in events)
        return [line for line in lines if "is not used" in line]

    async def test_full_chain(self) -> None:
        """The further certificates in the file are sent, too."""
        await self.listen()
        await self.serves(self.current)

    async def test_extra_chain(self) -> None:
        """The certificates of a chain file are sent, as by Twisted's own endpoint."""
        await self.listen(extra_chain=True)
        self.replace(self.certificate, self.current.pem)
        await self.serves(self.current)

    async def test_renewed(self) -> None:
        """A new connection gets a renewed certificate without a restart of the server."""
        await self.listen()
        with capturedLogs() as events:
            await self.serves(self.renew())
        self.assertIn("The renewed certificate is used.", map(formatEvent, events))

    async def test_half_renewed(self) -> None:
        """Until the key matches the new certificate, the old one is served; that is logged once."""
        await self.listen()
        issued = issue("updates.invalid", self.intermediate)
        self.replace(self.certificate, issued.pem + self.intermediate.pem)
        with capturedLogs() as events:
            await self.serves(self.current)
            await self.serves(self.current)
        self.assertEqual(
            self.warnings(events),
            [
                f"The renewed certificate is not used: {self.key} is not the unencrypted private "
                f"key of {self.certificate}."
            ],
        )
        self.replace(self.key, issued.key_pem())
        await self.serves(issued)

    async def test_removed(self) -> None:
        """If its files are missing, the server goes on with the certificate that it has read."""
        await self.listen()
        self.certificate.unlink()
        with capturedLogs() as events:
            await self.serves(self.current)
            await self.serves(self.current)
        self.assertEqual(len(self.warnings(events)), 1)

    async def test_no_regular_file(self) -> None:
        """A FIFO in the place of a file does not block."""
        await self.listen()
        self.key.unlink()
        os.mkfifo(self.key)
        with capturedLogs() as events:
            await self.serves(self.current)
        self.assertIn("not a regular file", self.warnings(events)[0])

    async def test_readable_later(self) -> None:
        """Files that could not be read are read again, although they have not changed."""
        await self.listen()
        renewed = self.renew()

        def read(path: Path, most: int) -> bytes:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        patch = self.patch(files, "read", read)
        await self.serves(self.current)
        patch.restore()
        await self.serves(renewed)


class DescriptionTests(SynchronousTestCase):
    """Descriptions that `parse_ssl` supports."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.key, self.certificate = self.folder / "key:1.pem", self.folder / "certificate.pem"
        make_certificate(self.key, self.certificate)

    def describe(self, *more: str) -> str:
        key = str(self.key).replace(":", r"\:")
        return ":".join(["ssl", "443", f"privateKey={key}", f"certKey={self.certificate}", *more])

    def assertPort(self, expected: str, *more: str) -> None:
        parsed = parse_ssl(self.describe(*more))
        assert parsed is not None
        self.assertEqual(parsed[0], expected)

    def test_port(self) -> None:
        """A bare port means all addresses; an interface and a backlog are kept."""
        self.assertPort("443")
        self.assertPort(r"tcp:443:interface=\:\:1:backlog=7", r"interface=\:\:1", "backlog=7")

    def test_one_file(self) -> None:
        """The key file may also hold the certificate."""
        both = self.folder / "both.pem"
        both.write_bytes(self.key.read_bytes() + self.certificate.read_bytes())
        self.assertIsNotNone(parse_ssl(f"ssl:443:privateKey={both}"))

    def test_of_twisted(self) -> None:
        """Descriptions that only Twisted's own endpoint supports are left to it."""
        self.assertIsNone(parse_ssl(self.describe("sslmethod=TLSv1_2_METHOD")))
        both = self.folder / "both.pem"
        both.write_bytes(self.key.read_bytes() + self.certificate.read_bytes())
        self.assertIsInstance(make_endpoint(f"ssl:0:{both}"), SSL4ServerEndpoint)

    def test_unusable(self) -> None:
        """Each unusable file has its own sentence, and no passphrase is asked for."""
        another = self.folder / "another.pem"
        another.write_bytes(issue("another").key_pem())
        encrypted = self.folder / "encrypted.pem"
        encrypted.write_bytes(issue("another").key_pem(b"open sesame"))
        nothing = self.folder / "nothing.pem"
        nothing.write_bytes(b"nothing")
        for key, certificate, words in (
            (another, self.certificate, "is not the unencrypted private key of"),
            (encrypted, self.certificate, "is not the unencrypted private key of"),
            (another, nothing, "nothing.pem holds no certificates in PEM"),
        ):
            error = self.assertRaises(
                ValueError, parse_ssl, f"ssl:443:privateKey={key}:certKey={certificate}"
            )
            self.assertIn(words, str(error))
        self.assertRaises(FileNotFoundError, parse_ssl, "ssl:443:privateKey=/nonexistent")
        large = self.folder / "large.pem"
        large.write_bytes(bytes(2 << 20))
        self.assertRaises(OSError, parse_ssl, f"ssl:443:privateKey={large}")
