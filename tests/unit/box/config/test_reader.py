"""The box's configuration; an error names the key."""

import json
import os
from datetime import time
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.config.reader import read_config
from opq_twisted.box.config.window import DailyWindow
from opq_twisted.box.network.proxies import NONE, Proxy
from opq_twisted.common.errors import ConfigInvalid
from tests.helpers.project import PROJECT

ENDPOINT = "http://updates.example.org:8151"
DEPLOYED = PROJECT / "deploy" / "box" / "opqbox_config.json"

#: The settings and their defaults, as the protocol has them.
DEFAULTS = """{
  "updates_ep": "http://updates.example.org:8151",
  "box_id": 0,
  "updater": {
    "name": "", "page": {"title": null, "logo": null, "colour": null},
    "install": "click", "window": null, "check_every": 3600, "spread": 300,
    "channel": "stable", "trusted_root": "/etc/opq/root.json", "allow_unsigned": false,
    "prefix": "/opt/opq", "version_file": "/opt/opq/current/VERSION",
    "reboot_command": ["systemctl", "reboot"],
    "log": "/var/log/opq/box_update.log", "install_timeout": 1800, "confirm_timeout": 600,
    "settle": 60, "services": [], "inhibit_file": "/run/opq/inhibit-update", "hosts": [],
    "programs": [], "web_password_file": null, "proxy": null, "report": true, "enrol_token": null
  }
}"""

#: Invalid values of settings under `updater`, and a part of their errors.
WRONG_SETTINGS: list[tuple[str, Any, str]] = [
    ("name", "n" * 65, "at most 64 printable characters"),
    ("name", "the\nbox", "at most 64 printable characters"),
    ("name", " box", "without spaces around them"),
    ("name", 7, "a string"),
    ("page", "OPQ", "an object"),
    ("page", {"title": "t" * 41}, "updater.page: title must be at most 40 printable"),
    ("page", {"title": 7}, "a string"),
    ("page", {"logo": "logo.svg"}, "an absolute path"),
    ("page", {"colour": "red"}, 'must be like "#0b5cad"'),
    ("page", {"color": "#000000"}, "unknown key 'color'"),
    ("install", "always", '"click" or "automatic"'),
    ("install", True, '"click" or "automatic"'),
    ("window", "2-4", "02:00-04:00"),
    ("window", "24:00-25:00", "02:00-04:00"),
    ("window", "02:00-02:00", "must not start and end at the same time, 02:00"),
    ("window", "", "02:00-04:00"),
    ("window", 2, "a string"),
    ("window", ["02:00", "04:00"], "a string"),
    ("check_every", 0, "more than 0"),
    ("check_every", -1, "more than 0"),
    ("check_every", float("nan"), "more than 0"),
    ("check_every", float("inf"), "more than 0"),
    ("check_every", 1e308, "at most 1e9"),
    ("check_every", "3600", "a number of seconds"),
    ("check_every", True, "a number of seconds"),
    ("check_every", None, "a number of seconds"),
    ("spread", -0.5, "must be from 0 to 1e9"),
    ("channel", 7, "a string"),
    ("trusted_root", "root.json", "an absolute path"),
    ("trusted_root", None, "a path"),
    ("allow_unsigned", 1, "true or false"),
    ("allow_unsigned", "yes", "true or false"),
    ("prefix", "opt/opq", "an absolute path"),
    ("prefix", "", "an absolute path"),
    ("prefix", "/opt\0opq", "a path"),
    ("version_file", "VERSION", "an absolute path"),
    ("reboot_command", [], "a program and its arguments"),
    ("reboot_command", "reboot", "a list of strings"),
    ("reboot_command", ["reboot", 1], "a list of strings"),
    ("log", 3, "a path"),
    ("install_timeout", 0, "more than 0"),
    ("confirm_timeout", [], "a number of seconds"),
    ("settle", -1, "must be from 0 to 1e9"),
    ("services", {"opq": True}, "a list of strings"),
    ("inhibit_file", False, "a path"),
    ("hosts", ["a", None], "a list of strings"),
    ("hosts", ["http://box.example.org/"], 'names such as "box.example.org"'),
    ("hosts", [""], 'names such as "box.example.org"'),
    ("hosts", ["a b"], 'names such as "box.example.org"'),
    ("programs", "curl", "a list of strings"),
    ("programs", ["Mozilla"], "'Mozilla' is not allowed"),
    ("programs", ["opq-box-agent"], "the first words of User-Agents"),
    ("programs", ["my script"], "the first words of User-Agents"),
    ("programs", [""], "the first words of User-Agents"),
    ("web_password_file", "secret", "an absolute path"),
    ("web_password_file", 5, "a path"),
    ("report", 0, "true or false"),
    ("report", "no", "true or false"),
]

WRONG_ENDPOINTS: list[Any] = [
    "",
    "http:/updates.example.org",
    "https:updates.example.org",
    "updates.example.org latest",
    "/updates",
    "ftp://updates.example.org",
    "http://",
    "http://updates.example.org:0",
    "http://updates.example.org:99999",
    "http://updates.example.org/?latest",
    "http://updates.example.org/#latest",
    "http://updates example.org",
    "http://[::1",
    "http://\N{LATIN SMALL LETTER U WITH DIAERESIS}pdates.example.org",
    "https://update_server",
    "http://[fe80::1%25eth0]:8151",
    "http://box7:sesame@updates.example.org",
    "http://box7:ses me@updates.example.org",
    "box7:sesame@updates.example.org",
    "http://box7:sesame",
    ["http://box7:sesame@updates.example.org"],
    8151,
    None,
    [ENDPOINT],
]


class ConfigTests(SynchronousTestCase):
    """The configuration that `read_config` reads."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def read(self, content: object) -> Any:
        self.path.write_text(json.dumps(content))
        return read_config(self.path)

    def refusal(self, content: object) -> str:
        with self.assertRaises(ConfigInvalid) as caught:
            self.read(content)
        sentence = str(caught.exception)
        self.assertIn(str(self.path), sentence)
        self.assertNotIn("\n", sentence)
        return sentence.replace(str(self.path), "FILE")

    def test_most(self) -> None:
        """Times that would let the rescue act on a healthy release are lowered."""
        times = {"confirm_timeout": 86400, "settle": 86400}
        updater = self.read({"updates_ep": ENDPOINT, "updater": times}).updater
        self.assertEqual((updater.confirm_timeout, updater.settle), (7200, 3600))

    def test_defaults(self) -> None:
        """All settings have the protocol's defaults; only the endpoint is required."""
        self.assertEqual(self.read({"updates_ep": ENDPOINT}), self.read(json.loads(DEFAULTS)))

    def test_every_setting(self) -> None:
        """The list of settings is complete."""
        settings = json.loads(DEFAULTS)["updater"]
        config = self.read({"updates_ep": ENDPOINT})
        self.assertEqual(set(settings), {item.name for item in config.updater.__attrs_attrs__})

    def test_deployed(self) -> None:
        """The sample configuration that is deployed can be used."""
        config = read_config(DEPLOYED)
        self.assertEqual(config.updates_ep, ENDPOINT)
        self.assertFalse(config.updater.allow_unsigned)

    def test_foreign_keys(self) -> None:
        """Keys of the box's other daemons are ignored."""
        others = {"cmd_sub_ep": 1, "plugins": ["x"], "calibration": None, "update": {"a": 1}}
        self.assertEqual(
            self.read({"updates_ep": ENDPOINT, **others}), self.read({"updates_ep": ENDPOINT})
        )

    def test_version_file(self) -> None:
        """`version_file` follows `prefix` unless it is given."""
        follows = self.read({"updates_ep": ENDPOINT, "updater": {"prefix": "/srv/opq"}})
        self.assertEqual(follows.updater.version_file, Path("/srv/opq/current/VERSION"))
        own = {"prefix": "/srv/opq", "version_file": "/home/pi/VERSION"}
        given = self.read({"updates_ep": ENDPOINT, "updater": own})
        self.assertEqual(given.updater.version_file, Path("/home/pi/VERSION"))

    def test_trailing_slash(self) -> None:
        """The endpoint may end with a slash, and may have a path."""
        config = self.read({"updates_ep": "https://example.org/opq/"})
        self.assertEqual(config.updates_ep, "https://example.org/opq")

    def test_window(self) -> None:
        """The window is read as two times."""
        config = self.read({"updates_ep": ENDPOINT, "updater": {"window": "22:30-04:00"}})
        self.assertEqual(config.updater.window, DailyWindow(time(22, 30), time(4)))

    def test_wrong_settings(self) -> None:
        """The error of a wrong type or value has the key, and what is allowed."""
        for key, value, phrase in WRONG_SETTINGS:
            with self.subTest(key=key, value=value):
                sentence = self.refusal({"updates_ep": ENDPOINT, "updater": {key: value}})
                self.assertIn(key, sentence)
                self.assertIn(phrase, sentence)

    def test_wrong_endpoints(self) -> None:
        """An unusable endpoint is refused, and no password is shown."""
        for value in WRONG_ENDPOINTS:
            with self.subTest(value=value):
                sentence = self.refusal({"updates_ep": value})
                self.assertIn("updates_ep", sentence)
                self.assertNotIn("ses", sentence)

    def test_any_host(self) -> None:
        """The endpoint may have any valid host, in upper or lower case."""
        for value, endpoint in (
            ("HTTP://Updates.Example.ORG:8151/Opq", "http://updates.example.org:8151/Opq"),
            ("http://[::1]:8151", "http://[::1]:8151"),
            ("https://[2001:DB8::1]/", "https://[2001:db8::1]"),
            ("http://update_server", "http://update_server"),
            ("http://ab--cd.test", "http://ab--cd.test"),
            ("http://updates.example.org.", "http://updates.example.org."),
            ("http://192.168.1.5:8151/a%2Fb", "http://192.168.1.5:8151/a%2Fb"),
        ):
            with self.subTest(value=value):
                self.assertEqual(self.read({"updates_ep": value}).updates_ep, endpoint)

    def test_proxy(self) -> None:
        """The setting is a proxy, or "none"; its password is not shown."""
        for value, proxy in (
            (None, None),
            ("none", NONE),
            ("http://proxy.example:3128", Proxy.parse("proxy.example:3128")),
            ("http://box:sesame@proxy.example", Proxy.parse("box:sesame@proxy.example")),
        ):
            with self.subTest(value=value):
                config = self.read({"updates_ep": ENDPOINT, "updater": {"proxy": value}})
                self.assertEqual(config.updater.proxy, proxy)
                self.assertNotIn("sesame", repr(config))
        for wrong in ("socks5://box:sesame@proxy.example", "http://box:sesame@", "", 3128, True):
            with self.subTest(wrong=wrong):
                sentence = self.refusal({"updates_ep": ENDPOINT, "updater": {"proxy": wrong}})
                self.assertIn('updater.proxy: must be like "http://proxy', sentence)
                self.assertNotIn("sesame", sentence)

    def test_token(self) -> None:
        """The token is text of a sensible length, and is shown nowhere."""
        config = self.read({"updates_ep": ENDPOINT, "updater": {"enrol_token": "open sesame"}})
        assert config.updater.enrol_token is not None
        self.assertEqual(config.updater.enrol_token.value, "open sesame")
        self.assertNotIn("sesame", f"{config!r} {config.updater.enrol_token}")
        for wrong in (5, ["sesame"], {"sesame": 1}, "", " sesame", "ses\name", "sesame" * 50):
            with self.subTest(wrong=wrong):
                sentence = self.refusal({"updates_ep": ENDPOINT, "updater": {"enrol_token": wrong}})
                self.assertIn("updater.enrol_token: must be ", sentence)
                self.assertNotIn("ses", sentence)

    def test_endpoint_of_the_older_updater(self) -> None:
        """Endpoints that wget accepted are accepted."""
        for given, understood in (
            ("updates.example.org:8151", "http://updates.example.org:8151"),
            ("192.0.2.7", "http://192.0.2.7"),
            ("[2001:db8::1]:8151", "http://[2001:db8::1]:8151"),
            ("opq-server/updates/", "http://opq-server/updates"),
            ("HTTP://updates.example.org:8151//", "http://updates.example.org:8151"),
            ("\t HTTPS://updates.example.org \n", "https://updates.example.org"),
        ):
            self.assertEqual(self.read({"updates_ep": given}).updates_ep, understood)

    def test_box_id_of_the_older_updater(self) -> None:
        """A number in quotes, or with a decimal point, is accepted."""
        for given in ("7", " 7 ", "007", 7.0):
            self.assertEqual(self.read({"updates_ep": ENDPOINT, "box_id": given}).box_id, 7)

    def test_byte_order_mark(self) -> None:
        """A byte order mark before the JSON is accepted."""
        self.path.write_text(f'\ufeff{{"updates_ep": "{ENDPOINT}"}}', encoding="utf-8")
        self.assertEqual(read_config(self.path).updates_ep, ENDPOINT)

    def test_endpoint_required(self) -> None:
        """The endpoint is required."""
        sentence = self.refusal({"box_id": 3})
        self.assertIn("updates_ep", sentence)
        self.assertIn("required key is missing", sentence)

    def test_wrong_box_id(self) -> None:
        """The box's number is a whole number, and not text or true."""
        for value in ("seven", "", "-", "7.5", 7.5, True, None, [7]):
            with self.subTest(value=value):
                sentence = self.refusal({"updates_ep": ENDPOINT, "box_id": value})
                self.assertIn("box_id: must be a whole number", sentence)

    def test_unknown_key(self) -> None:
        """An unknown key under `updater` is an error, which names it."""
        settings = {"instal": "automatic"}
        sentence = self.refusal({"updates_ep": ENDPOINT, "updater": settings})
        self.assertIn("updater", sentence)
        self.assertIn("unknown key 'instal'", sentence)

    def test_updater_not_an_object(self) -> None:
        """`updater` must be an object."""
        values: list[object] = [[], "click", None, 1]
        for value in values:
            with self.subTest(value=value):
                sentence = self.refusal({"updates_ep": ENDPOINT, "updater": value})
                self.assertIn("updater: must be an object", sentence)

    def test_not_an_object(self) -> None:
        """JSON that is not an object is refused."""
        contents: list[object] = [[], "x", 1, None]
        for content in contents:
            with self.subTest(content=content):
                self.assertIn("must be a JSON object", self.refusal(content))

    def test_not_json(self) -> None:
        """Text that is not JSON is refused."""
        for content in (b"", b"{", b"\xff\xfe", b"updates_ep: x", b"[" * 100_000):
            with self.subTest(content=content[:10]):
                self.path.write_bytes(content)
                with self.assertRaisesRegex(ConfigInvalid, "is not JSON"):
                    read_config(self.path)

    def test_no_file(self) -> None:
        """A FIFO, at which a read would wait for ever, is refused."""
        path = Path(self.mktemp())
        os.mkfifo(path)
        with self.assertRaisesRegex(ConfigInvalid, "not a regular file"):
            read_config(path)

    def test_missing(self) -> None:
        """The error of a missing file has its name, and the option for another."""
        with self.assertRaisesRegex(ConfigInvalid, "No such file.*--config"):
            read_config(self.path)

    def test_too_large(self) -> None:
        """A file that is too large is not parsed."""
        self.path.write_bytes(b" " * (1024 * 1024 + 1))
        with self.assertRaisesRegex(ConfigInvalid, "larger than 1 MiB"):
            read_config(self.path)
