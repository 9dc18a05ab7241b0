"""`Accept` chooses the media type."""

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Request
from twisted.web.test.requesthelper import DummyChannel

from opq_twisted.http.negotiation import preferred

TEXT, JSON, PAGE = b"text/plain", b"application/json", b"text/html"


class NegotiationTests(SynchronousTestCase):
    """`Accept`, as RFC 9110 defines it."""

    def assertGets(self, form: bytes, *accept: str) -> None:
        """These headers choose this media type."""
        request = Request(DummyChannel(), False)
        request.requestHeaders.setRawHeaders("Accept", list(accept))
        self.assertEqual(preferred(request, (TEXT, JSON, PAGE)), form, accept)

    def test_anything(self) -> None:
        """A client that accepts anything gets the first type: curl, wget, one without a header."""
        self.assertGets(TEXT)
        for accept in ("*/*", "text/*", "", "text/html, text/plain, */*", "text/html, */*"):
            self.assertGets(TEXT, accept)

    def test_named(self) -> None:
        """A client that names a type gets it, in any case, and with other parameters."""
        self.assertGets(JSON, "application/json")
        self.assertGets(JSON, "Application/JSON; charset=utf-8")
        self.assertGets(JSON, "application/*")
        self.assertGets(PAGE, "text/html")

    def test_weights(self) -> None:
        """The greatest weight wins; a browser gets the page."""
        firefox = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
        self.assertGets(PAGE, firefox)
        self.assertGets(PAGE, "text/html, application/json;q=0.9")
        self.assertGets(JSON, "text/html;q=0.9, application/json ; q=1.000")
        self.assertGets(JSON, "text/html;q=0.001, application/json;q=0.002")

    def test_several_lines(self) -> None:
        """Several header lines are one list."""
        self.assertGets(PAGE, "application/json;q=0.5", "text/html;q=0.6")

    def test_specific(self) -> None:
        """The most specific range decides, at any position."""
        self.assertGets(PAGE, "text/*;q=0.1, */*;q=0.1, text/html;q=0.2")
        self.assertGets(JSON, "text/*;q=0, */*;q=0.5")
        self.assertGets(JSON, "*/*, text/plain;q=0")

    def test_refused(self) -> None:
        """A client that accepts no available type gets the first one."""
        self.assertGets(TEXT, "image/png")
        self.assertGets(TEXT, "*/*;q=0")

    def test_malformed(self) -> None:
        """Malformed entries are ignored."""
        for weight in ("q=2", "q=1.5", "q=-1", "q=.5", "q=0.1234", "q=nan", "q=", "q=0.5x"):
            self.assertGets(TEXT, f"text/html;{weight}")
            self.assertGets(JSON, f"text/html;{weight}, application/json;q=0.1")
        self.assertGets(JSON, ",;,q=1,;q=1, /, application/json;q=0.1,,")
        self.assertGets(JSON, "\xff\x00, application/json")
