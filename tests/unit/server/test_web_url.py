"""Which URLs of the command line are usable."""

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.server.web_url import is_web_url


class WebUrlTests(SynchronousTestCase):
    """URLs of http and https."""

    def test_good(self) -> None:
        """A host by its name or address, with or without a port and a path."""
        for url in (
            "https://chat.example.org",
            "http://localhost:8080/a/b-c_d;e=f%20g",
            "http://192.0.2.7/",
            "https://[2001:db8::7]:8443/x",
            "HTTPS://Chat.Example.org/",
        ):
            self.assertTrue(is_web_url(url), url)

    def test_query(self) -> None:
        """A query is for those who can use one."""
        url = "https://chat.example.org/hook?key=a%2Fb&thread=1"
        self.assertEqual((is_web_url(url), is_web_url(url, query=True)), (False, True))

    def test_bad(self) -> None:
        """Anything else is refused, also what would change the request."""
        for url in (
            *("", "chat.example.org", "ftp://x/", "http://", "https:///x", "http://a b/"),
            *("https://anna@x/", "https://anna:secret@x/", "https://x/#a", "https://x/?a#b"),
            *("https://x:0/", "https://x:99999/", "https://[::g]/", "https://x/a\r\nHost: y"),
            *("https://xn--a.example/", "https://x/?a b", "https://x/?a\n", "https://x/\u00e9"),
        ):
            self.assertFalse(is_web_url(url, query=True), url)
