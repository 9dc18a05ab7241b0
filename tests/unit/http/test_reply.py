"""An response is a value, made once, with all that its header must say."""

from attrs.exceptions import FrozenInstanceError
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.http.reply import Reply, header_lines
from tests.helpers.http_exchange import ask
from tests.helpers.resources import hello


class ReplyTests(SynchronousTestCase):
    """What every response has."""

    def test_defaults(self) -> None:
        """Nobody keeps it, no browser guesses what it is, and its length is told."""
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
        """An empty body has a length too, or a client would wait for it."""
        self.assertIn(b"Content-Length: 0\r\n", Reply.of(200).head)

    def test_headers(self) -> None:
        """A header that is given is sent, and may say that the response can be kept."""
        reply = Reply.of(200, headers={b"ETag": b'"a"', b"Cache-Control": b"public"})
        self.assertIn(b'ETag: "a"\r\n', reply.head)
        self.assertIn(b"Cache-Control: public\r\n", reply.head)
        self.assertNotIn(b"no-store", reply.head)

    def test_length_is_counted(self) -> None:
        """No header that is given makes the length, or the type, a lie."""
        reply = Reply.of(200, b"abc", headers={b"Content-Length": b"7", b"Content-Type": b"a/b"})
        self.assertEqual(reply.head.count(b"Content-Length"), 1)
        self.assertIn(b"Content-Length: 3\r\n", reply.head)
        self.assertIn(b"Content-Type: text/plain; charset=utf-8\r\n", reply.head)

    def test_no_body(self) -> None:
        """A 304 tells nothing of a body it has not (RFC 9110, section 8.6); neither does a 204."""
        for code in (204, 304):
            reply = Reply.of(code, headers={b"ETag": b'"a"'})
            self.assertEqual(reply.head, b'Cache-Control: no-store\r\nETag: "a"\r\n')

    def test_frozen(self) -> None:
        """An response that is sent again and again cannot change on the way."""
        reply = Reply.sentence(200, "Hello.")
        with self.assertRaises(FrozenInstanceError):
            reply.code = 500  # type: ignore[misc]

    def test_sentence(self) -> None:
        """One line of text, with its length, that no browser takes for anything else."""
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
    """A header as it goes over the wire."""

    def test_lines(self) -> None:
        """One line each, in the order given."""
        self.assertEqual(header_lines({b"B": b"1", b"A": b""}), b"B: 1\r\nA: \r\n")
        self.assertEqual(header_lines({}), b"")

    def test_line_breaks(self) -> None:
        """Nothing that would begin another line, or look like it, is written down."""
        for broken in (b"\r\n", b"\n", b"\r", b"\r\nSet-Cookie: a=b", b"\n\r", b"a\nb\rc"):
            for header in ({broken: b"a"}, {b"A": broken}, {b"A": b"a", b"B": b"b" + broken}):
                error = self.assertRaises(ValueError, header_lines, header)
                self.assertIn("line break", str(error))

    def test_in_an_answer(self) -> None:
        """So no response is made with one."""
        for broken in (b"/a\r\nSet-Cookie: a=b", b"/a\n", b"/a\r"):
            with self.assertRaises(ValueError):
                Reply.of(302, headers={b"Location": broken})
            with self.assertRaises(ValueError):
                Reply.of(200, content_type=broken)
