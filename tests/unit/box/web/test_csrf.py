"""Requests that the owner did not mean are told from those that he did."""

import socket
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Request
from twisted.web.test.requesthelper import DummyChannel

from opq_twisted.box.web import host_names
from opq_twisted.box.web.csrf import AGENT, Guard


def request(method: str = "POST", **headers: str) -> Request:
    """Make a request; `sec_fetch_site="none"` is a header."""
    made = Request(DummyChannel(), False)
    made.method = method.encode()
    for name, value in headers.items():
        made.requestHeaders.setRawHeaders(name.replace("_", "-"), [value])
    return made


class ForeignHostTests(SynchronousTestCase):
    """To which names a box answers."""

    def setUp(self) -> None:
        self.patch(socket, "gethostname", lambda: "OPQ-Box")
        self.guard = Guard(
            ["Sensor.example.org", "Box.example.net.", "box.home:8080", "bücher.org"]
        )

    def assert_own(self, *hosts: str) -> None:
        for host in hosts:
            with self.subTest(host=host):
                self.assertIsNone(self.guard.foreign_host(request(host=host)))

    def assert_foreign(self, *hosts: str) -> None:
        for host in hosts:
            with self.subTest(host=host):
                self.assertIsNotNone(self.guard.foreign_host(request(host=host)))

    def test_own(self) -> None:
        """It answers to its addresses, its names, those of the configuration, and to no name."""
        self.assertIsNone(self.guard.foreign_host(request()))
        for host in (
            "192.168.0.7",
            "192.168.0.7:8080",
            "127.0.0.1",
            "[::1]",
            "[::1]:8080",
            "[fe80::ba27:ebff:fe00:1]:8080",
            "localhost",
            "localhost:8080",
            "LOCALHOST",
            "opq-box",
            "opq-box:8080",
            "OPQ-Box.local",
            "opq-box.local.:8080",
            "sensor.example.org",
            "SENSOR.example.org:80",
            "box.example.net",
            "box.home",
            "xn--bcher-kva.org:8080",
        ):
            with self.subTest(host=host):
                self.assertIsNone(self.guard.foreign_host(request(host=host)))

    def test_full_name(self) -> None:
        """A box whose host name is a full one answers to the short one, too."""
        self.patch(socket, "gethostname", lambda: "opq-box.example.org")
        self.assert_own("opq-box.example.org", "opq-box", "opq-box.local", "opq-box.local.")
        self.assert_foreign("opq-box.example.com", "example.org", "opq-box.example.org.local")

    def test_name_from_hosts(self) -> None:
        """A full name that /etc/hosts gives to the box is its own, and no other of that file."""
        path = Path(self.mktemp())
        self.patch(host_names, "_HOSTS", path)
        self.assert_foreign("opq-box.example.org")
        path.write_bytes(
            b"127.0.0.1 localhost\n0.0.0.0 evil.example # opq-box\n"
            b"127.0.1.1\tOPQ-Box.example.org. opq-box\n192.168.0.9 printer \xff\n"
        )
        self.assert_own("opq-box.example.org", "OPQ-BOX.example.org.:8080")
        self.assert_foreign("evil.example", "printer")

    def test_taken_name(self) -> None:
        """Where another box has its name, multicast DNS gives it one with a number."""
        self.assert_own("opq-box-2.local", "OPQ-Box-13.local:8080", "opq-box11.local")
        self.assert_foreign("opq-box-2", "opq-box-.local", "opq-box-x.local", "opq-box-02.local")
        self.assert_foreign("opq-box-2.local.evil.example", "opq-box-2.evil.local", "2.local")
        self.patch(socket, "gethostname", lambda: "opq-box-7")
        self.assert_own("opq-box-7.local", "opq-box-8.local", "opq-box-7-2.local")
        self.assert_foreign("opq-box.local", "opq.local")
        self.patch(socket, "gethostname", lambda: "7")
        self.assert_own("7.local", "7-2.local")
        self.assert_foreign("2.local", "local", ".local")

    def test_nameless(self) -> None:
        """A machine that has no name answers to no empty one."""
        self.patch(socket, "gethostname", lambda: "")
        self.assert_foreign("", ".", ":8080", "local", ".local", "1.local", "-2.local")

    def test_renamed(self) -> None:
        """A box that gets another name while its agent runs answers to that one, and no more."""
        self.patch(socket, "gethostname", lambda: "kitchen")
        self.assert_own("kitchen", "kitchen.local")
        self.assert_foreign("opq-box", "opq-box.local")

    def test_foreign(self) -> None:
        """Any other name may be one that another's server lets point here."""
        for host in (
            "evil.example",
            "evil.example:8080",
            "opq-box.evil.example",
            "localhost.evil.example",
            "192.168.0.7.evil.example",
            "opq-box.lan",
            "2130706433",
            "127.1",
            "[evil.example]",
            "",
            ":8080",
            "opq-box@evil.example",
            "\xb2",
            "\xff",
            "x" * 10_000,
        ):
            with self.subTest(host=host):
                reason = self.guard.foreign_host(request(host=host))
                assert reason is not None
                self.assertIn('add the name to "hosts"', reason)
                self.assertLess(len(reason), 300)


class NotMeantTests(SynchronousTestCase):
    """Which requests for an action are a click."""

    def setUp(self) -> None:
        self.guard = Guard([])

    def test_agent(self) -> None:
        """An agent is led by servers, and is nobody's click, with whatever other headers."""
        for agent in (f"{AGENT}0.1.0 (box 7; release unknown)", AGENT.upper()):
            for more in ({}, {"sec_fetch_site": "same-origin"}, {"origin": "http://box"}):
                with self.subTest(agent=agent, more=more):
                    asked = request(user_agent=agent, host="box", **more)
                    self.assertIn("is not its owner", self.guard.not_meant(asked) or "")

    def test_meant(self) -> None:
        """The page's own requests are, and those of programs, which send none of the headers."""
        for headers in (
            {},
            {"host": "192.168.0.7:8080"},
            {"sec_fetch_site": "same-origin"},
            {"sec_fetch_site": "none"},
            {"host": "192.168.0.7:8080", "origin": "http://192.168.0.7:8080"},
            {"host": "opq-box.local", "origin": "https://opq-box.local"},
            {"host": "[::1]:8080", "origin": "http://[::1]:8080"},
            {"sec_purpose": "unknown"},
            {"user_agent": "Mozilla/5.0 (X11; Linux)", "sec_fetch_site": "none"},
            {"user_agent": "Mozilla/5.0 (X11; Linux)", "host": "box:80", "origin": "http://box:80"},
            {
                "user_agent": "Mozilla/5.0 (X11; Linux)",
                "host": "box:80",
                "referer": "http://box:80/",
            },
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
                self.assertIsNone(self.guard.not_meant(request(**headers)))

    def test_not_meant(self) -> None:
        """Those that another page caused, or a browser in advance, are not."""
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
            # As an image or a link on any page asks over plain HTTP.
            {"user_agent": "Mozilla/5.0 (X11; Linux)", **host},
            {"user_agent": "Mozilla/5.0 (X11; Linux)", "referer": "http://evil.example/", **host},
            {
                "user_agent": "Mozilla/5.0 (X11; Linux)",
                "referer": "http://192.168.0.7:8080.evil.example/",
                **host,
            },
            {"sec_fetch_site": "cross-site", "origin": "http://192.168.0.7:8080", **host},
        ):
            with self.subTest(headers=headers):
                reason = self.guard.not_meant(request(**headers))
                assert reason is not None
                self.assertTrue(reason.endswith("."))

    def test_several_values(self) -> None:
        """One value that another page caused is enough."""
        asked = request(host="box", origin="http://box")
        asked.requestHeaders.addRawHeader("Origin", "http://evil.example")
        self.assertIsNotNone(self.guard.not_meant(asked))
        asked = request("GET", user_agent="curl/8")
        asked.requestHeaders.addRawHeader("User-Agent", "VLC/3.0.20")
        self.assertIsNotNone(self.guard.not_meant(asked))


class GetTests(SynchronousTestCase):
    """Web content can make many a program send a GET."""

    def setUp(self) -> None:
        self.guard = Guard([], ["MyScript"])

    def judge(self, **headers: str) -> str | None:
        return self.guard.not_meant(request("GET", host="192.168.0.7:8080", **headers))

    def test_programs(self) -> None:
        """Programs that people use for that are taken, and those that the setting lists."""
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

    def test_page(self) -> None:
        """So is the box's own page in a browser."""
        own = "http://192.168.0.7:8080"
        for headers in ({"referer": f"{own}/"}, {"origin": own}, {"sec_fetch_site": "same-origin"}):
            self.assertIsNone(self.judge(user_agent="Mozilla/5.0 (X11; Linux)", **headers))

    def test_others(self) -> None:
        """What a page, a mail or a playlist sends is not, and neither is what has no name."""
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
        self.assertIn("own page", self.judge(user_agent="Mozilla/5.0 (X11; Linux)") or "")

    def test_foreign_referer(self) -> None:
        """Another page's Referer is refused, whoever sends it."""
        for agent in ("curl/8", "AppleCoreMedia/1.0", "MyScript", "Mozilla/5.0"):
            reason = self.judge(user_agent=agent, referer="http://evil.example/page")
            self.assertIn("Another page", reason or "")
