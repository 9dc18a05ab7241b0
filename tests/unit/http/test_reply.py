"""A reply is a value with all necessary headers."""

from attrs.exceptions import FrozenInstanceError
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.http.reply import Reply, header_lines
from tests.helpers.http_exchange import ask
from tests.helpers.resources import hello


class ReplyTests(SynchronousTestCase):
    """Headers that every reply has."""

    def test_defaults(self) -> None:
        """Caches do not store it, browsers do not guess its type, and its length is given."""
        reply = Reply.of(200, b"{}", b"application/json")
        self.assertEqual((reply.code, reply.body), (200, b"{}"))
        self.assertEqual(
            reply.head,
            b"Cache-Control: no-store\r\n"
            b"Content-Type: application/json\r\n"
            b"X-Content-Type-Options: nosniff\r\n"
            b"Content-Length: 2\r\n",
        )

    def test_empty(self) -> None:
        """An empty body has a length too; without it, a client would wait for the body."""
        self.assertIn(b"Content-Length: 0\r\n", Reply.of(200).head)

    def test_headers(self) -> None:
        """A given header is sent, and may allow caching."""
        reply = Reply.of(200, headers={b"ETag": b'"a"', b"Cache-Control": b"public"})
        self.assertIn(b'ETag: "a"\r\n', reply.head)
        self.assertIn(b"Cache-Control: public\r\n", reply.head)
        self.assertNotIn(b"no-store", reply.head)

    def test_length_is_counted(self) -> None:
        """A given header cannot replace the true length or type."""
        reply = Reply.of(200, b"abc", headers={b"Content-Length": b"7", b"Content-Type": b"a/b"})
        self.assertEqual(reply.head.count(b"Content-Length"), 1)
        self.assertIn(b"Content-Length: 3\r\n", reply.head)
        self.assertIn(b"Content-Type: text/plain; charset=utf-8\r\n", reply.head)

    def test_no_body(self) -> None:
        """A 304 has no headers about a body (RFC 9110, section 8.6); neither has a 204."""
        for code in (204, 304):
            reply = Reply.of(code, headers={b"ETag": b'"a"'})
            self.assertEqual(reply.head, b'Cache-Control: no-store\r\nETag: "a"\r\n')

    def test_frozen(self) -> None:
        """A reply that is sent many times cannot be changed."""
        reply = Reply.sentence(200, "Hello.")
        with self.assertRaises(FrozenInstanceError):
            reply.code = 500  # type: ignore[misc]

    def test_sentence(self) -> None:
        """It has one line of text and its length, and browsers take it for text only."""
        got = ask(hello(), "GET", "/hello")
        self.assertEqual(got.text, "Hello.\n")
        self.assertEqual(got.headers["Content-Type"], "text/plain; charset=utf-8")
        self.assertEqual(got.headers["X-Content-Type-Options"], "nosniff")
        self.assertEqual(got.headers["Cache-Control"], "no-store")
        self.assertEqual(got.headers["Content-Length"], "7")

    def test_sentence_in_utf_8(self) -> None:
        """The length counts bytes, not characters."""
        reply = Reply.sentence(404, "Häh?", {b"Retry-After": b"1"})
        self.assertEqual(reply.body, "Häh?\n".encode())
        self.assertIn(b"Content-Length: 6\r\n", reply.head)
        self.assertIn(b"Retry-After: 1\r\n", reply.head)


class HeaderLinesTests(SynchronousTestCase):
    """Headers as they are sent."""

    def test_lines(self) -> None:
        """Each header is a line, in the given order."""
        self.assertEqual(header_lines({b"B": b"1", b"A": b""}), b"B: 1\r\nA: \r\n")
        self.assertEqual(header_lines({}), b"")

    def test_line_breaks(self) -> None:
        """A value with a line break, or with a character similar to one, is an error."""
        for broken in (b"\r\n", b"\n", b"\r", b"\r\nSet-Cookie: a=b", b"\n\r", b"a\nb\rc"):
            for header in ({broken: b"a"}, {b"A": broken}, {b"A": b"a", b"B": b"b" + broken}):
                error = self.assertRaises(ValueError, header_lines, header)
                self.assertIn("line break", str(error))

    def test_in_an_answer(self) -> None:
        """So no reply is made with such a value."""
        for broken in (b"/a\r\nSet-Cookie: a=b", b"/a\n", b"/a\r"):
            with self.assertRaises(ValueError):
                Reply.of(302, headers={b"Location": broken})
            with self.assertRaises(ValueError):
                Reply.of(200, content_type=broken)
