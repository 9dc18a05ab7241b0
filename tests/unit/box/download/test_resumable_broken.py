"""A download continues where a connection broke."""

from twisted.internet.defer import Deferred

from opq_twisted.box.download.part_file import is_joined
from opq_twisted.box.download.verify import Content
from tests.unit.box.download.test_resumable import (
    DATA,
    HASHES,
    LENGTH,
    SIGNED,
    TAG,
    FetchCase,
    rest,
)


class BrokenTests(FetchCase):
    """Connections break within one download."""

    def test_rest(self) -> None:
        """After a pause the rest of the same file is requested, and the progress continues."""
        for expected in (SIGNED, Content()):
            with self.subTest(expected=expected):
                fetching, peer = self.begin(LENGTH, TAG, body=DATA[:1000], expected=expected)
                peer.reset()
                self.assertEqual(len(self.clock.tcpClients), 0)
                self.clock.advance(1)
                # Where the hash decides, other servers may send the rest, too.
                condition = [] if expected.hashes else ['If-Range: "one"']
                self.send_rest(1000, *condition)
                self.assert_came(fetching, Content(len(DATA), expected.hashes))
                self.assertEqual(self.reports[-1].received, len(DATA))
                self.path.unlink()

    def test_again_and_again(self) -> None:
        """The download continues as long as each connection brings something."""
        fetching, peer = self.begin(LENGTH, TAG, body=DATA[:100])
        for size in range(100, len(DATA), 100):
            peer.reset()
            self.clock.advance(1)
            peer = self.ask(f"Range: bytes={size}-")
            peer.answer("206 Partial Content", *rest(size), body=DATA[size : size + 100])
        self.assert_came(fetching, SIGNED)

    def test_silence(self) -> None:
        """A silent connection counts as broken."""
        fetching, peer = self.begin(LENGTH, TAG, body=DATA[:1000])
        self.clock.advance(60)
        self.assertFalse(peer.open)
        self.clock.advance(1)
        self.send_rest(1000)
        self.assert_came(fetching, SIGNED)

    def test_short(self) -> None:
        """If the server closes the connection early, or sends less, the rest is requested."""
        fetching, peer = self.begin(LENGTH, body=DATA[:1000])
        peer.close()
        self.clock.advance(1)
        peer = self.ask("Range: bytes=1000-")
        head = ["Content-Range: bytes 1000-1999/3000", "Content-Length: 1000"]
        peer.answer("206 Partial Content", *head, body=DATA[1000:2000])
        self.clock.advance(1)
        peer = self.ask("Range: bytes=2000-")
        peer.answer("206 Partial Content", *rest(2000, "*"), body=DATA[2000:])
        self.assert_came(fetching, SIGNED)

    def test_no_ranges(self) -> None:
        """A server without ranges sends the whole file again, which replaces the first bytes."""
        fetching = self.begin_broken(LENGTH, body=b"x" * 2000, expected=Content())
        # Without signature and validator nobody knows whether the rest would fit.
        self.send_whole()
        self.assert_came(fetching, Content(len(DATA)))

    def test_no_ranges_of_signed(self) -> None:
        """With a signed hash, only the missing bytes of that are written."""
        fetching = self.begin_broken(LENGTH, body=DATA[:1000])
        peer = self.ask("Range: bytes=1000-")
        peer.answer("200 OK", LENGTH, body=b"x" * 1000)
        peer.send(DATA[1000:])
        self.assert_came(fetching, SIGNED)
        self.assertTrue(is_joined(self.path))

    def test_nothing_lost(self) -> None:
        """If that breaks off before the first new byte, the received bytes are kept."""
        fetching = self.begin_broken(LENGTH, body=DATA[:1000])
        peer = self.ask("Range: bytes=1000-")
        peer.answer("200 OK", LENGTH, body=b"x" * 10)
        peer.reset()
        self.assertEqual(self.path.read_bytes(), DATA[:1000])
        self.clock.advance(2)
        self.send_rest(1000)
        self.assert_came(fetching, SIGNED)

    def test_passing_over_is_not_slow(self) -> None:
        """Bytes that are sent again count for the minimum rate."""
        size = 1_000_000
        expected = Content(size, HASHES)
        length = f"Content-Length: {size}"
        fetching, _ = self.begin(length, body=bytes(size - 10), expected=expected)
        self.cancel(fetching)
        fetching = self.fetch(expected)
        peer = self.ask(f"Range: bytes={size - 10}-")
        peer.answer("200 OK", length)
        for _ in range(19):
            self.clock.advance(40)
            peer.send(bytes(52_631))
        peer.send(bytes(5))
        self.assertNoResult(fetching)
        peer.send(bytes(size - 19 * 52_631 - 5))
        self.assertEqual(self.successResultOf(fetching), expected)

    def test_changed(self) -> None:
        """The download of a changed file starts again, with its own promise and validator."""
        fetching = self.begin_broken(
            "Content-Length: 5000", TAG, body=bytes(10), expected=Content()
        )
        peer = self.ask("Range: bytes=10-", 'If-Range: "one"')
        peer.answer("200 OK", 'ETag: "two"', LENGTH, body=DATA[:20])
        peer.reset()
        self.clock.advance(1)
        self.send_rest(20, 'If-Range: "two"')
        self.assert_came(fetching, Content(len(DATA)))

    def test_weak(self) -> None:
        """A weak validator does not prove that two parts are of the same file."""
        fetching = self.begin_broken(LENGTH, 'ETag: W/"one"', body=DATA[:9], expected=Content())
        self.send_whole()
        self.assert_came(fetching, Content(len(DATA)))

    def test_other_part(self) -> None:
        """A response that is not the requested rest is ignored, and the whole file requested."""
        for name, headers in (
            ("no range", ["Content-Length: 5"]),
            ("another start", rest(999)),
            ("another size", rest(1000, 4000)),
            ("another file", ['ETag: "two"', *rest(1000)]),
            ("nonsense", ["Content-Range: bytes some/3000", "Content-Length: 5"]),
            ("several", ["Content-Type: multipart/byteranges; boundary=x", "Content-Length: 5"]),
        ):
            with self.subTest(name=name):
                fetching = self.begin_broken(LENGTH, TAG, body=DATA[:1000], expected=Content())
                peer = self.ask("Range: bytes=1000-", 'If-Range: "one"')
                peer.answer("206 Partial Content", *headers)
                self.assertFalse(peer.open)
                self.assert_nothing_left()
                self.send_whole()
                self.assert_came(fetching, Content(len(DATA)))
                self.path.unlink()

    def test_other_part_of_signed(self) -> None:
        """The same holds with a signed hash, and the received bytes are kept meanwhile."""
        for headers in (
            ["Content-Length: 5"],
            rest(999),
            ["Content-Range: bytes some/3000", "Content-Length: 5"],
        ):
            with self.subTest(headers=headers):
                fetching = self.begin_broken(LENGTH, body=DATA[:1000])
                peer = self.ask("Range: bytes=1000-")
                peer.answer("206 Partial Content", *headers)
                self.assertFalse(peer.open)
                self.assertEqual(self.path.read_bytes(), DATA[:1000])
                self.send_whole()
                self.assert_came(fetching, SIGNED)
                self.path.unlink()

    def test_another_server(self) -> None:
        """Servers with other tags and the same bytes continue each other's parts."""
        fetching = self.begin_broken(LENGTH, TAG, body=DATA[:1000])
        peer = self.ask("Range: bytes=1000-")
        peer.answer("206 Partial Content", 'ETag: "two"', *rest(1000), body=DATA[1000:2000])
        peer.reset()
        self.assertTrue(is_joined(self.path))
        self.clock.advance(1)
        peer = self.ask("Range: bytes=2000-")
        peer.answer("206 Partial Content", TAG, *rest(2000), body=DATA[2000:])
        self.assert_came(fetching, SIGNED)
        self.assertTrue(is_joined(self.path))

    def test_not_joined(self) -> None:
        """A single response, or one with the same strong validator, does not count as joined."""
        fetching, _ = self.begin(LENGTH, TAG, body=DATA)
        self.assert_came(fetching, SIGNED)
        self.assertFalse(is_joined(self.path))
        self.path.unlink()
        fetching = self.begin_broken(LENGTH, TAG, body=DATA[:1000], expected=Content())
        self.network.accept().answer("206 Partial Content", *rest(1000), body=DATA[1000:])
        self.assert_came(fetching, Content(len(DATA)))
        self.assertFalse(is_joined(self.path))

    def test_unasked_part(self) -> None:
        """A part that was not requested is ignored."""
        fetching = self.fetch()
        peer = self.network.accept()
        peer.answer("206 Partial Content", *rest(1000))
        self.assertFalse(peer.open)
        self.assertIn("answers 206", self.said[-1])
        self.clock.advance(2)
        self.send_whole()
        self.assert_came(fetching, SIGNED)

    def begin_without_length(self, body: bytes) -> Deferred[Content]:
        """Break off the download of a file of unknown size."""
        fetching = self.fetch(Content())
        peer = self.network.accept()
        peer.answer("200 OK", TAG, "Transfer-Encoding: chunked")
        peer.send(b"%x\r\n%s\r\n" % (len(body), body))
        peer.reset()
        self.clock.advance(1)
        return fetching

    def test_size_learnt(self) -> None:
        """An unknown size is learnt from the rest."""
        fetching = self.begin_without_length(DATA[:1000])
        self.send_rest(1000, 'If-Range: "one"')
        self.assert_came(fetching, Content(len(DATA)))

    def test_nothing_missing(self) -> None:
        """For a complete file of unknown size, the server has no rest."""
        fetching = self.begin_without_length(DATA)
        peer = self.ask("Range: bytes=3000-", 'If-Range: "one"')
        peer.answer("416 Range Not Satisfiable", "Content-Range: bytes */3000", "Content-Length: 9")
        self.assertFalse(peer.open)
        self.assert_came(fetching, Content())

    def test_too_much(self) -> None:
        """If the server has fewer bytes than the part file, the download starts again."""
        for headers in (["Content-Range: bytes */2999"], ["Content-Range: bytes */*"], []):
            with self.subTest(headers=headers):
                fetching = self.begin_without_length(bytes(3000))
                peer = self.ask("Range: bytes=3000-", 'If-Range: "one"')
                peer.answer("416 Range Not Satisfiable", *headers, "Content-Length: 9")
                self.assertFalse(peer.open)
                self.send_whole()
                self.assert_came(fetching, Content(len(DATA)))
