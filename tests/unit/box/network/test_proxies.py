"""The choice of the proxy for a request."""

from base64 import b64encode

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.network.proxies import NONE, Proxies, Proxy
from opq_twisted.box.network.urls import read_url
from opq_twisted.common.errors import ServerFailed

PROXY = "http://proxy.example:3128"


class ProxyTests(SynchronousTestCase):
    """The form of a proxy."""

    def test_parsed(self) -> None:
        """Only the host is required; names, addresses and TLS are possible."""
        for text, shown in {
            PROXY: PROXY,
            "proxy.example:3128": PROXY,
            "proxy.example": "http://proxy.example:80",
            "HTTPS://Proxy.example/": "https://proxy.example:443",
            "http://[::1]:3128": "http://[::1]:3128",
        }.items():
            with self.subTest(text=text):
                proxy = Proxy.parse(text)
                self.assertEqual(str(proxy), shown)
                self.assertIsNone(proxy.authorization)

    def test_password(self) -> None:
        """A user name and a password are used, but not shown."""
        for text, known in {
            "http://box:sesame@proxy.example:3128": b"box:sesame",
            "box:ses%40me@proxy.example:3128": b"box:ses@me",
            "http://box:s/s@m#e?@proxy.example:3128": b"box:s/s@m#e?",
            "http://box@proxy.example:3128": b"box:",
            "http://box:s\xe4\udcff@proxy.example:3128": b"box:s\xc3\xa4\xff",
        }.items():
            with self.subTest(text=text):
                proxy = Proxy.parse(text)
                self.assertEqual(proxy.authorization, b"Basic " + b64encode(known))
                for shown in (str(proxy), repr(proxy), repr(Proxies(proxy))):
                    self.assertNotIn("box", shown)
                    self.assertNotIn(b64encode(known).decode(), shown)

    def test_refused(self) -> None:
        """Anything else is refused, and its password is not shown."""
        for text in (
            "socks5://box:sesame@proxy.example:1080",
            "http://box:sesame@",
            "http://box:sesame@proxy.example:x",
            "http://box:sesame@proxy.example/path",
            "proxy.example:sesame",
            "http://box:sesame\ud800@proxy.example:3128",
            "",
        ):
            with self.subTest(text=text):
                error = self.assertRaises(ValueError, Proxy.parse, text)
                self.assertNotIn("sesame", str(error))
                self.assertNotIn("ud800", str(error))


class FindTests(SynchronousTestCase):
    """The proxy of a URL."""

    def found(self, url: str, environment: dict[str, str]) -> str | None:
        proxy = Proxies(None, environment).find(read_url(url))
        return None if proxy is None else str(proxy)

    def test_environment(self) -> None:
        """Each scheme has its variable; lower case takes precedence, even if it is empty."""
        for environment, http, https in (
            ({}, None, None),
            ({"http_proxy": "a:1"}, "http://a:1", None),
            ({"https_proxy": "a:1"}, None, "http://a:1"),
            ({"HTTP_PROXY": "a:1", "HTTPS_PROXY": "b:1"}, "http://a:1", "http://b:1"),
            ({"http_proxy": "a:1", "HTTP_PROXY": "b:1"}, "http://a:1", None),
            ({"http_proxy": "", "HTTP_PROXY": "b:1"}, None, None),
        ):
            with self.subTest(environment=environment):
                self.assertEqual(self.found("http://updates.example", environment), http)
                self.assertEqual(self.found("https://updates.example", environment), https)

    def test_exceptions(self) -> None:
        """`no_proxy` lists names with their domains, addresses, networks and ports."""
        for exceptions, url, excepted in (
            ("*", "http://updates.example", True),
            ("updates.example", "http://updates.example", True),
            ("UPDATES.example.", "http://updates.example", True),
            ("example", "http://updates.example", True),
            (".example", "http://updates.example.", True),
            ("*.example", "http://updates.example", True),
            ("ample", "http://updates.example", False),
            ("a, updates.example ,b", "http://updates.example", True),
            ("a updates.example", "http://updates.example", True),
            ("updates.example:80", "http://updates.example", True),
            ("updates.example:81", "http://updates.example", False),
            ("192.168.1.5", "http://192.168.1.5", True),
            ("192.168.1.5:8151", "http://192.168.1.5:8151", True),
            ("192.168.0.0/16", "http://192.168.1.5", True),
            ("192.168.0.0/16", "http://[::ffff:192.168.1.5]", True),
            ("192.168.0.0/16", "http://10.0.0.1", False),
            ("10.0.0.0/8", "http://10.1", True),
            ("0.0.0.0/0", "http://10.1.2.3.4", False),
            ("fd00::/8", "http://[fd00::1]", True),
            ("[fd00::1]", "http://[fd00:0::1]", True),
            ("[fd00::1]:80", "http://[fd00::1]", True),
            ("fd00::1", "http://[fd00::2]", False),
            ("", "http://updates.example", False),
            (" , .", "http://updates.example", False),
        ):
            with self.subTest(exceptions=exceptions, url=url):
                for name in ("no_proxy", "NO_PROXY"):
                    proxy = self.found(url, {"http_proxy": PROXY, name: exceptions})
                    self.assertEqual(proxy, None if excepted else PROXY)

    def test_here(self) -> None:
        """No proxy is used for the box itself."""
        for host in (
            *("localhost", "a.localhost", "[::1]", "[::ffff:127.0.0.1]"),
            *("127.0.0.1", "0.0.0.0", "127.1", "2130706433", "0x7F.1", "0177.0.0.1"),
        ):
            with self.subTest(host=host):
                self.assertIsNone(self.found(f"http://{host}:8151", {"http_proxy": PROXY}))

    def test_setting(self) -> None:
        """The setting takes precedence over the environment."""
        environment = {"http_proxy": "a:1", "no_proxy": "*"}
        url = read_url("http://updates.example")
        proxy = Proxy.parse(PROXY)
        self.assertEqual(Proxies(proxy, environment).find(url), proxy)
        self.assertIsNone(Proxies(NONE, environment).find(url))

    def test_unusable(self) -> None:
        """The error names the variable of an unusable proxy, when it is used, but not its value."""
        environment = {"https_proxy": "socks5://box:sesame@proxy.example"}
        self.assertIsNone(self.found("http://updates.example", environment))
        error = self.assertRaises(ServerFailed, self.found, "https://updates.example", environment)
        self.assertIn("variable https_proxy cannot be used", str(error))
        self.assertNotIn("sesame", str(error))
