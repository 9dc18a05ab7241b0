"""Actions that another page caused are rejected."""

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Request
from twisted.web.test.requesthelper import DummyChannel

from opq_twisted.box.config.settings import AGENT, UpdaterConfig
from opq_twisted.box.web.csrf import CsrfCheck

#: The User-Agent of a browser.
BROWSER = "Mozilla/5.0 (X11; Linux)"


def request(method: str = "POST", **headers: str) -> Request:
    """Make a request; `sec_fetch_site="none"` is a header."""
    made = Request(DummyChannel(), False)
    made.method = method.encode()
    for name, value in headers.items():
        made.requestHeaders.setRawHeaders(name.replace("_", "-"), [value])
    return made


class NotMeantTests(SynchronousTestCase):
    """The rules for POST and GET."""

    def setUp(self) -> None:
        self.check = CsrfCheck()

    def test_agent(self) -> None:
        """A box's agent is rejected, with whatever other headers."""
        for agent in (f"{AGENT}/0.1.0 (box 7; release unknown)", AGENT.upper()):
            for more in ({}, {"sec_fetch_site": "same-origin"}, {"origin": "http://box"}):
                with self.subTest(agent=agent, more=more):
                    asked = request(user_agent=agent, host="box", **more)
                    self.assertIn("is not its owner", self.check.error(asked) or "")

    def test_meant(self) -> None:
        """Requests of the box's page, and of programs without these headers, are accepted."""
        for headers in (
            {},
            {"host": "192.168.0.7:8080"},
            {"sec_fetch_site": "same-origin"},
            {"sec_fetch_site": "none"},
            {"host": "192.168.0.7:8080", "origin": "http://192.168.0.7:8080"},
            {"host": "opq-box.local", "origin": "https://opq-box.local"},
            {"host": "[::1]:8080", "origin": "http://[::1]:8080"},
            {"sec_purpose": "unknown"},
            {"user_agent": BROWSER, "sec_fetch_site": "none"},
            {"user_agent": BROWSER, "host": "box:80", "origin": "http://box:80"},
            {"user_agent": BROWSER, "host": "box:80", "referer": "http://box:80/"},
            {"user_agent": "curl/7.88.1", "host": "box:80"},
            {"user_agent": "AppleCoreMedia/1.0.0.20E247", "host": "box:80"},
            {"referer": ""},
            {
                "host": "opq-box.local",
                "origin": "http://opq-box.local",
                "sec_fetch_site": "same-origin",
            },
        ):
            with self.subTest(headers=headers):
                self.assertIsNone(self.check.error(request(**headers)))

    def test_not_meant(self) -> None:
        """Requests that another page or a prefetch caused are rejected."""
        host = {"host": "192.168.0.7:8080"}
        for headers in (
            {"sec_fetch_site": "cross-site"},
            {"sec_fetch_site": "same-site"},
            {"sec_fetch_site": ""},
            {"origin": "http://evil.example", **host},
            {"origin": "null", **host},
            {"origin": "", **host},
            {"origin": "http://192.168.0.7", **host},
            {"origin": "http://192.168.0.7:8080.evil.example", **host},
            {"origin": "http://evil.example/192.168.0.7:8080", **host},
            {"origin": "ftp://192.168.0.7:8080", **host},
            {"origin": "http://[", **host},
            {"origin": "http://192.168.0.7:8080"},
            {"sec_purpose": "prefetch"},
            {"sec_purpose": "prefetch;prerender"},
            {"sec_purpose": "Prefetch"},
            {"purpose": "prefetch"},
            {"x_purpose": "preview"},
            {"x_moz": "prefetch"},
            {"user_agent": "Opera/9.80 (X11; Linux)", **host},
            {"user_agent": "Links (2.28; Linux)", **host},
            {"user_agent": "curl/7.88.1", "referer": "http://evil.example/", **host},
            {"referer": "about:blank", **host},
            {"referer": "http://None/"},
            # The request of an image or a link on any page over plain HTTP.
            {"user_agent": BROWSER, **host},
            {"user_agent": BROWSER, "referer": "http://evil.example/", **host},
            {"user_agent": BROWSER, "referer": "http://192.168.0.7:8080.evil.example/", **host},
            {"sec_fetch_site": "cross-site", "origin": "http://192.168.0.7:8080", **host},
        ):
            with self.subTest(headers=headers):
                reason = self.check.error(request(**headers))
                assert reason is not None
                self.assertTrue(reason.endswith("."))

    def test_several_values(self) -> None:
        """One bad value among several is enough."""
        asked = request(host="box", origin="http://box")
        asked.requestHeaders.addRawHeader("Origin", "http://evil.example")
        self.assertIsNotNone(self.check.error(asked))
        asked = request("GET", user_agent="curl/8")
        asked.requestHeaders.addRawHeader("User-Agent", "VLC/3.0.20")
        self.assertIsNotNone(self.check.error(asked))


class GetTests(SynchronousTestCase):
    """The additional rules for GET, which web content can cause in many programs."""

    def setUp(self) -> None:
        self.check = CsrfCheck(["MyScript"])

    def judge(self, **headers: str) -> str | None:
        return self.check.error(request("GET", host="192.168.0.7:8080", **headers))

    def test_programs(self) -> None:
        """The usual HTTP clients and the programs of the configuration are accepted."""
        for agent in (
            "curl/7.88.1",
            "Wget/1.21.3",
            "Wget",
            "python-requests/2.31.0",
            "Python-urllib/3.11",
            "python-httpx/0.27",
            "Python/3.11 aiohttp/3.9.1",
            "Python-treq/26.7 Twisted/26.10",
            "MyScript/2 (home)",
            "myscript",
        ):
            self.assertIsNone(self.judge(user_agent=agent), agent)

    def test_browser_in_programs(self) -> None:
        """A browser is rejected even if the configuration names it among the programs."""
        self.check = CsrfCheck(UpdaterConfig(programs=("Lynx",)).programs)
        self.assertIn("own page", self.judge(user_agent="Lynx/2.9.0") or "")

    def test_page(self) -> None:
        """The box's page in a browser is accepted."""
        own = "http://192.168.0.7:8080"
        for headers in ({"referer": f"{own}/"}, {"origin": own}, {"sec_fetch_site": "same-origin"}):
            self.assertIsNone(self.judge(user_agent=BROWSER, **headers))

    def test_others(self) -> None:
        """Media players, mail programs, previews and requests without a User-Agent are rejected."""
        for agent in (
            "AppleCoreMedia/1.0.0.20E247 (iPhone; U; CPU OS 16_4 like Mac OS X; en_us)",
            "Microsoft Office/16.0 (Windows NT 10.0; Microsoft Outlook 16.0.12026; Pro)",
            "VLC/3.0.20 LibVLC/3.0.20",
            "NSPlayer/12.00.19041.0001 WMFSDK/12.00.19041.0001",
            "Lavf/60.3.100",
            "GStreamer souphttpsrc 1.22.0 libsoup/3.2.2",
            "Roku/DVP-9.10",
            "Linux/5.10, UPnP/1.0, Portable SDK for UPnP devices/1.14",
            "WhatsApp/2.23.20.0",
            "TelegramBot (like TwitterBot)",
            "facebookexternalhit/1.1",
            "Feedly/1.0 (+http://www.feedly.com/fetcher.html)",
            "okhttp/4.12.0",
            "Dalvik/2.1.0 (Linux; U; Android 13)",
            "curlish/1.0",
            "not curl/8",
            "",
        ):
            self.assertIn("use POST", self.judge(user_agent=agent) or "", agent)
        self.assertIn("use POST", self.judge() or "")
        self.assertIn("own page", self.judge(user_agent=BROWSER) or "")

    def test_foreign_referer(self) -> None:
        """The Referer of another page is rejected for every User-Agent."""
        for agent in ("curl/8", "AppleCoreMedia/1.0", "MyScript", "Mozilla/5.0"):
            reason = self.judge(user_agent=agent, referer="http://evil.example/page")
            self.assertIn("Another page", reason or "")
