"""The redirects that a box follows to an archive."""

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.network.addresses import Reach
from opq_twisted.box.network.redirects import MAX_REDIRECTS
from opq_twisted.common.errors import ServerFailed
from tests.helpers.memory_network import Network, Peer

ENDPOINT = "http://updates.example:8151"


class RedirectTests(SynchronousTestCase):
    """Redirects of an archive."""

    def setUp(self) -> None:
        self.network = Network()

    def ask(self, endpoint: str = ENDPOINT) -> tuple[Deferred[Any], Peer]:
        """Request an archive."""
        asking = self.network.server.get_archive(f"{endpoint}/update/x", {"Range": "bytes=7-"})
        return Deferred.fromCoroutine(asking), self.network.accept()

    def redirect(self, location: str, endpoint: str = ENDPOINT) -> tuple[Deferred[Any], Peer]:
        """Request an archive, and answer with a redirect."""
        asked, peer = self.ask(endpoint)
        peer.answer("302 Found", f"Location: {location}", "Content-Length: 1000000", body=b"x")
        self.assertFalse(peer.open)
        return asked, peer

    def sentence(self, asked: Deferred[Any]) -> str:
        """Return the reason why the redirect is not followed."""
        error = self.failureResultOf(asked, ServerFailed).value
        self.assertEqual(self.network.clock.tcpClients, [])
        self.assertEqual(self.network.clock.getDelayedCalls(), [])
        self.assertNotIn("\n", str(error))
        return str(error)

    def test_followed(self) -> None:
        """The headers are sent to the target too; the body of the redirect is discarded."""
        for location, line, host in (
            ("http://mirror.example/x?a=b", "GET /x?a=b HTTP/1.1", "mirror.example"),
            ("https://mirror.example/x", "GET /x HTTP/1.1", "mirror.example"),
            ("//mirror.example:81/x", "GET /x HTTP/1.1", "mirror.example:81"),
            ("/x", "GET /x HTTP/1.1", "updates.example:8151"),
            ("y", "GET /update/y HTTP/1.1", "updates.example:8151"),
            ("/?" + "x" * 7000, "GET /?" + "x" * 7000 + " HTTP/1.1", "updates.example:8151"),
        ):
            with self.subTest(location=location):
                asked, _ = self.redirect(location)
                second = self.network.accept()
                lines = second.request.split("\r\n")
                self.assertEqual(lines[0], line)
                self.assertIn(f"Host: {host}", lines)
                self.assertIn("Range: bytes=7-", lines)
                self.assertIn("Accept-Encoding: identity", lines)
                second.answer("206 Partial Content", "Content-Length: 0")
                self.assertEqual(self.successResultOf(asked).code, 206)

    def test_statuses(self) -> None:
        """Each status of a redirect is followed, and no other."""
        for status in (301, 302, 303, 307, 308):
            with self.subTest(status=status):
                _, peer = self.ask()
                peer.answer(f"{status} X", "Location: /x", "Content-Length: 0")
                self.network.accept()
        for status in (300, 304, 305, 404):
            with self.subTest(status=status):
                asked, peer = self.ask()
                peer.answer(f"{status} X", "Location: /x", "Content-Length: 0")
                self.assertEqual(self.successResultOf(asked).code, status)

    def test_short_body(self) -> None:
        """A short body is read first, so that the connection can be used again."""
        asked, peer = self.ask()
        peer.answer("302 Found", "Location: /x", "Content-Length: 3", body=b"ab")
        self.assertEqual(self.network.clock.tcpClients, [])
        peer.send(b"c")
        self.network.accept().answer("404 Not Found", "Content-Length: 0")
        self.assertEqual(self.successResultOf(asked).code, 404)

    def test_silent_body(self) -> None:
        """A short body that does not arrive delays the next request for 5 seconds."""
        asked, peer = self.ask()
        peer.answer("302 Found", "Location: /x", "Content-Length: 3", body=b"ab")
        self.network.clock.advance(5)
        self.assertFalse(peer.open)
        self.network.accept().answer("404 Not Found", "Content-Length: 0")
        self.assertEqual(self.successResultOf(asked).code, 404)

    def test_too_often(self) -> None:
        """The number of redirects is limited, and each connection is closed."""
        asked, peer = self.ask()
        for _ in range(MAX_REDIRECTS):
            peer.answer("302 Found", "Location: /x", "Content-Length: 1000000")
            self.assertFalse(peer.open)
            peer = self.network.accept()
        peer.answer("302 Found", "Location: /x", "Content-Length: 1000000")
        self.assertFalse(peer.open)
        self.assertIn("redirects more than 5 times", self.sentence(asked))

    def test_too_close(self) -> None:
        """A server may redirect to a place as far away as itself, but not to a closer one."""
        places = [Reach.INTERNET, Reach.HOME, Reach.MACHINE, Reach.NOWHERE]
        for own in places[:3]:
            for other in places:
                with self.subTest(own=own, other=other):
                    self.network.reaches = {"updates.example": own, "other.example": other}
                    asked, _ = self.redirect("http://other.example/x")
                    if other <= own:
                        self.network.accept().answer("404 Not Found", "Content-Length: 0")
                        self.assertEqual(self.successResultOf(asked).code, 404)
                    else:
                        self.assertIn(
                            "redirects to other.example, which is this box or in its network",
                            self.sentence(asked),
                        )

    def test_proxied(self) -> None:
        """Behind a proxy, both names are resolved and compared; the box is never allowed."""
        self.network.proxied = True
        for own, other, followed in (
            (Reach.INTERNET, Reach.INTERNET, True),
            (Reach.INTERNET, Reach.HOME, False),
            (Reach.HOME, Reach.HOME, True),
            (Reach.MACHINE, Reach.MACHINE, False),
        ):
            with self.subTest(own=own, other=other):
                self.network.reaches = {"updates.example": own, "other.example": other}
                asked, _ = self.redirect("http://other.example/x")
                if followed:
                    self.network.accept().answer("404 Not Found", "Content-Length: 0")
                    self.assertEqual(self.successResultOf(asked).code, 404)
                else:
                    self.assertIn("redirects to other.example", self.sentence(asked))

    def test_many_addresses(self) -> None:
        """Behind a proxy, a server cannot redirect to the home by adding a closer address."""
        self.network.proxied = True
        self.network.reaches = {"updates.example": Reach.HOME, "router.home": Reach.HOME}
        self.network.public_too = {"updates.example"}
        asked, _ = self.redirect("http://router.home/reboot")
        self.assertIn("redirects to router.home", self.sentence(asked))

    def test_each(self) -> None:
        """A mirror may redirect no closer than the first server."""
        self.network.reaches = {"mirror.example": Reach.INTERNET, "router.home": Reach.HOME}
        asked, _ = self.redirect("http://mirror.example/x")
        mirror = self.network.accept()
        mirror.answer("302 Found", "Location: http://router.home/reboot", "Content-Length: 0")
        self.assertIn("redirects to router.home", self.sentence(asked))

    def test_downgrade(self) -> None:
        """No redirect leads from https to http, not even through another https server."""
        asked, _ = self.redirect("http://mirror.example/x", "https://updates.example")
        self.assertIn("less secure than https", self.sentence(asked))
        asked, _ = self.redirect("https://mirror.example/x")
        self.network.accept().answer(
            "302 Found", "Location: http://mirror.example/x", "Content-Length: 0"
        )
        self.assertIn("less secure than https", self.sentence(asked))

    def test_no_target(self) -> None:
        """A target that is not an http or https URL is refused, and no password is shown."""
        for location in (
            "",
            "ftp://mirror.example/x",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "http://box:sesame@mirror.example/x",
            "http://mirror.example/x#top",
            "http://mirror.example\\@evil.example/x",
            "http://mirror.example/a b",
            "http://m\xefrror.example/",
            "http://[fe80::1%25eth0]/",
            "/x\r\nLocation: /y",
            "/" + "x" * 8000,
        ):
            with self.subTest(location=location[:40]):
                asked, _ = self.redirect(location)
                sentence = self.sentence(asked)
                self.assertIn("redirects to a URL that a box does not follow", sentence)
                self.assertNotIn("sesame", sentence)
                self.assertLess(len(sentence), 300)

    def test_mirror_away(self) -> None:
        """The error names an unreachable mirror, and not the server."""
        asked, _ = self.redirect("http://mirror.example/x")
        self.network.refuse(ConnectionRefusedError())
        self.assertEqual(
            self.sentence(asked),
            "Cannot reach mirror.example, where the update server redirects to: no server answers "
            "there. Try again later.",
        )

    def test_cancelled(self) -> None:
        """A request can be cancelled at any redirect, and nothing remains."""
        asked, _ = self.redirect("http://mirror.example/x")
        mirror = self.network.accept()
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertFalse(mirror.open)
        self.assertEqual(self.network.clock.getDelayedCalls(), [])
        asked, peer = self.ask()
        peer.answer("302 Found", "Location: /x", "Content-Length: 3", body=b"ab")
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertFalse(peer.open)
        self.assertEqual(self.network.clock.getDelayedCalls(), [])
