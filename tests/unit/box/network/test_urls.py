"""The URLs that the agent can use, and its reasons against others."""

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.network.urls import Url, read_url

USABLE = {
    "http://updates.example.org": Url(False, "updates.example.org", 80, ""),
    "https://Updates.Example.ORG/Opq/": Url(True, "updates.example.org", 443, "/Opq/"),
    "HTTP://update_server:8151": Url(False, "update_server", 8151, ""),
    "http://ab--cd.test/": Url(False, "ab--cd.test", 80, "/"),
    "http://updates.example.org.:8151": Url(False, "updates.example.org.", 8151, ""),
    "https://xn--bcher-kva.example": Url(True, "xn--bcher-kva.example", 443, ""),
    "http://[::1]:8151": Url(False, "::1", 8151, ""),
    "https://[2001:DB8::1]/a%2Fb?c=d": Url(True, "2001:db8::1", 443, "/a%2Fb?c=d"),
    "http://[::ffff:127.0.0.1]": Url(False, "::ffff:127.0.0.1", 80, ""),
    "http://127.1:0080": Url(False, "127.1", 80, ""),
}

#: With some of what is said of them.
UNUSABLE = {
    "": "begin with http",
    "updates.example.org": "begin with http",
    "ftp://updates.example.org": "begin with http",
    "http://updates.example.org/#top": "begin with http",
    "http://updates.example.org\\@evil.example": "begin with http",
    "http://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example": "xn--",
    "http://updates example.org": "without spaces",
    "http://updates.example.org\n": "without spaces",
    "http://box7:sesame@updates.example.org": "no password",
    "http://sesame@updates.example.org:1": "no password",
    "http://": "after //",
    "http://:8151": "after //",
    "http://updates.example.org:": "after //",
    "http://updates.example.org:x": "after //",
    "http://::1": "after //",
    "http://[::1": "after //",
    "http://[::1]x": "after //",
    "http://updates.example.org:0": "1 to 65535",
    "http://updates.example.org:65536": "1 to 65535",
    "http://[fe80::1%25eth0]:8151": "zone",
    "http://[127.0.0.1]": "an IPv6 address",
    "http://a..b": "between dots",
    "http://" + "a" * 64: "1 to 63",
    "http://" + "a." * 127 + "org": "1 to 63",
    "http://up$dates": "underscores",
    "https://update_server": "with https",
    "https://ab--cd.test": "with https",
    "https://-a.test": "with https",
}


class UrlTests(SynchronousTestCase):
    """URLs are parsed into their parts."""

    def test_usable(self) -> None:
        """Names that resolvers accept, and addresses of both kinds, are accepted."""
        for text, url in USABLE.items():
            with self.subTest(text=text):
                self.assertEqual(read_url(text), url)

    def test_unusable(self) -> None:
        """Any other URL is refused with a reason, which does not repeat a password."""
        for text, phrase in UNUSABLE.items():
            with self.subTest(text=text):
                error = self.assertRaises(ValueError, read_url, text)
                self.assertIn(phrase, str(error))
                self.assertNotIn("sesame", str(error))
