"""A resource answers in plain text, and names the methods that it allows."""

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import NotFound, PlainResource
from tests.helpers.http_exchange import Connection, ask
from tests.helpers.resources import Waits, hello


class PostOnly(PlainResource):
    """Accepts POST only."""

    isLeaf = True

    def render_POST(self, request: BoundedRequest) -> Reply:
        """Reply."""
        return Reply.sentence(202, "Thank you.")


class MethodTests(SynchronousTestCase):
    """The methods of a resource."""

    def test_methods(self) -> None:
        """`Allow` names the methods of the resource."""
        got = ask(hello(), "DELETE", "/hello")
        self.assertEqual((got.status, got.headers["Allow"]), (405, "GET, HEAD, POST"))
        self.assertEqual(got.text, "Only GET, HEAD, POST can be asked for here.\n")

    def test_methods_are_case_sensitive(self) -> None:
        """`get` is not a method (RFC 9110, section 9.1), nor is the name of an attribute."""
        for method in ("get", "Get", "render_GET", "isLeaf", "children", "putChild"):
            self.assertEqual(ask(hello(), method, "/hello").status, 405, method)

    def test_no_methods(self) -> None:
        """A resource without methods is only part of a path, and gets 404."""
        self.assertEqual(ask(PlainResource(), "GET", "/").status, 404)
        root = PlainResource()
        root.putChild(b"step", hello())
        for method in ("GET", "HEAD", "POST", "DELETE"):
            self.assertEqual(ask(root, method, "/step").status, 404)
        self.assertEqual(ask(root, "GET", "/step/hello").status, 200)

    def test_no_get(self) -> None:
        """Without GET, there is no HEAD either."""
        for method in ("GET", "HEAD", "PUT"):
            got = ask(PostOnly(), method, "/")
            self.assertEqual((got.status, got.headers["Allow"]), (405, "POST"))
        self.assertEqual(ask(PostOnly(), "POST", "/").text, "Thank you.\n")

    def test_later(self) -> None:
        """A resource may reply later."""
        waits = Waits()
        connection = Connection(waits)
        connection.send("GET", "/")
        self.assertEqual(connection.transport.value(), b"")
        waits.requests[0].reply(Reply.sentence(200, "At last."))
        self.assertEqual(connection.response().text, "At last.\n")


class HeadTests(SynchronousTestCase):
    """HEAD is GET without the body."""

    def test_like_get(self) -> None:
        """HEAD has the status and headers of GET, with the length of the body."""
        for path in ("/hello", "/nothing"):
            got, head = ask(hello(), "GET", path), ask(hello(), "HEAD", path)
            self.assertEqual((head.status, head.body, head.cut), (got.status, b"", False))
            for response in (got, head):
                del response.headers["Date"]
            self.assertEqual(head.headers.items(), got.headers.items())

    def test_head_of_a_refusal(self) -> None:
        """HEAD never has a body, not even with 404."""
        got = ask(hello(), "HEAD", "/nothing")
        self.assertEqual((got.status, got.body), (404, b""))
        self.assertGreater(int(got.headers["Content-Length"]), 0)

    def test_later(self) -> None:
        """HEAD has no body either if the reply comes later."""
        waits = Waits()
        connection = Connection(waits)
        connection.send("HEAD", "/")
        waits.requests[0].reply(Reply.sentence(200, "At last."))
        self.assertTrue(connection.transport.value().endswith(b"Content-Length: 9\r\n\r\n"))


class NotFoundTests(SynchronousTestCase):
    """Paths without a resource."""

    def test_any(self) -> None:
        """Any other path gets 404 with one line of text, for any method."""
        for path in ("/", "/nothing", "/nothing/deeper", "/hell%6f%00", "/../hello", "//"):
            for method in ("GET", "POST", "BREW"):
                got = ask(hello(), method, path)
                self.assertEqual((got.status, got.text), (404, "There is nothing here.\n"), path)

    def test_quoted(self) -> None:
        """A path may be quoted in any way, and may have any query."""
        for path in ("/hello", "/hell%6f", "/hello?", "/hello?a=b;c&%ff", "/hello/deeper"):
            self.assertEqual(ask(hello(), "GET", path).status, 200, path)

    def test_leaf(self) -> None:
        """A leaf answers for all paths below it."""
        self.assertTrue(NotFound.isLeaf)
        self.assertEqual(ask(NotFound(), "GET", "/a/b/c").status, 404)
