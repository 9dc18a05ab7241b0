"""The password of the box's actions: its hash, and the check of requests."""

import base64
import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.web.auth import BasicAuth, read_password_hash
from opq_twisted.common.errors import ConfigInvalid
from opq_twisted.http.guards import password
from opq_twisted.http.guards.password import PasswordHash
from opq_twisted.http.guards.password_queue import TooManyAttempts
from tests.helpers.box_fakes import NEW
from tests.unit.box.web.test_resources import ACTIONS, CURL, WebCase

SECRET = "correct hörse"


def basic(password: str, user: str = "owner") -> bytes:
    """Make the header that a browser sends."""
    return b"Basic " + base64.b64encode(f"{user}:{password}".encode())


class HashTests(SynchronousTestCase):
    """The hash on the disk."""

    def read(self, text: str) -> PasswordHash:
        path = Path(self.mktemp())
        path.write_text(text)
        return read_password_hash(path)

    def test_round_trip(self) -> None:
        """A written hash can be read, and matches only its password."""
        kept = self.read(f"{PasswordHash.of(SECRET)}\n")
        self.assertTrue(kept.matches(SECRET))
        self.assertFalse(kept.matches(SECRET + "x"))
        self.assertNotEqual(PasswordHash.of(SECRET), PasswordHash.of(SECRET))

    def test_known(self) -> None:
        """The hash is standard scrypt (RFC 7914, section 12)."""
        salt = base64.b64encode(b"SodiumChloride").rstrip(b"=").decode()
        digest = bytes.fromhex(
            "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"
            "d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887"
        )
        encoded = base64.b64encode(digest).rstrip(b"=").decode()
        kept = self.read(f"$scrypt$ln=14,r=8,p=1${salt}${encoded}")
        self.assertTrue(kept.matches("pleaseletmein"))

    def test_unusable(self) -> None:
        """A file with other content, or with parameters that use too much memory, is refused."""
        good = str(PasswordHash.of(SECRET))
        for text in (
            "",
            SECRET,
            good.replace("ln=14", "ln=20"),
            good.replace("ln=14", "ln=0"),
            good.replace("r=8", "r=0"),
            good.replace("scrypt", "md5"),
            good[:-3] + "é",
            good * 2,
        ):
            with self.subTest(text=text):
                self.assertIn(
                    "opq-box password", str(self.assertRaises(ConfigInvalid, self.read, text))
                )
        missing = self.assertRaises(ConfigInvalid, read_password_hash, Path(self.mktemp()))
        self.assertIn("No such file or directory", str(missing))
        fifo = Path(self.mktemp())
        os.mkfifo(fifo)
        refused = self.assertRaises(ConfigInvalid, read_password_hash, fifo)
        self.assertIn("not a regular file", str(refused))


class BasicAuthTests(SynchronousTestCase):
    """The check of an Authorization header."""

    def setUp(self) -> None:
        self.patch(password, "_LN", 4)  # It need not take long.
        self.clock = Clock()
        self.hashed = 0
        self.auth = BasicAuth(self.clock, PasswordHash.of(SECRET), self.in_thread)

    def in_thread(self, *call: Any) -> Deferred[Any]:
        self.hashed += 1
        return maybeDeferred(*call)

    def check(self, header: bytes | None, client: str = "192.168.0.9") -> Deferred[bool]:
        return Deferred.fromCoroutine(self.auth.check(header, (client, client)))

    def test_right(self) -> None:
        """The right password is accepted with any user name, and hashed once."""
        for user in ("owner", "", "somebody else"):
            self.assertTrue(self.successResultOf(self.check(basic(SECRET, user))))
        self.assertEqual(self.hashed, 1)

    def test_wrong(self) -> None:
        """A wrong password is rejected after a second, also once the right one is known."""
        for _ in range(2):
            asked = self.check(basic("guess"))
            self.assertNoResult(asked)
            self.clock.advance(1)
            self.assertFalse(self.successResultOf(asked))
            self.assertTrue(self.successResultOf(self.check(basic(SECRET))))

    def test_malformed(self) -> None:
        """A malformed header is rejected without hashing."""
        for header in (
            None,
            b"",
            b"Basic",
            b"Basic !",
            b"Basic " + base64.b64encode(b"no colon"),
            b"Basic " + base64.b64encode(b"\xff\xfe:\xff"),
            b"Bearer " + basic(SECRET)[6:],
            basic("x" * 1025),
        ):
            with self.subTest(header=header):
                self.assertFalse(self.successResultOf(self.check(header)))
        self.assertEqual(self.hashed, 0)

    def test_many(self) -> None:
        """Passwords are checked one at a time, and excess ones are rejected unchecked."""
        guesses = [self.check(basic(f"guess {number}")) for number in range(20)]
        self.assertEqual(self.hashed, 1)
        unheard = [guess for guess in guesses if guess.called]
        self.assertEqual(len(unheard), 17)
        for guess in unheard:
            self.failureResultOf(guess, TooManyAttempts)
        for _ in range(3):
            self.clock.advance(1)
        for guess in guesses[:3]:
            self.assertFalse(self.successResultOf(guess))
        self.assertEqual(self.hashed, 3)

    def test_owner_among_guesses(self) -> None:
        """While others guess as fast as they can, the owner's attempt is the next one."""
        for number in range(40):
            for _ in range(3):
                self.check(basic(f"guess {number}"), f"192.168.0.{number}").addErrback(
                    lambda why: why.trap(TooManyAttempts)
                )
            self.clock.advance(1)
        owner = self.check(basic(SECRET), "192.168.0.200")
        self.clock.advance(1)
        self.assertTrue(self.successResultOf(owner))

    def test_broken(self) -> None:
        """A check that raises an error, such as a lack of memory, does not block later checks."""
        self.patch(self.auth._check, "_in_thread", lambda *_: fail(MemoryError()))
        self.failureResultOf(self.check(basic(SECRET)), MemoryError)
        self.patch(self.auth._check, "_in_thread", self.in_thread)
        self.assertTrue(self.successResultOf(self.check(basic(SECRET))))


class ActionTests(WebCase):
    """The password protects the actions only."""

    def setUp(self) -> None:
        super().setUp()
        basic_auth = BasicAuth(self.bench.clock, PasswordHash.of(SECRET), maybeDeferred)
        self.root = self.make_root("box.example", basic_auth=basic_auth)

    def test_actions(self) -> None:
        """Without the password no action is done, and the response makes a browser ask for it."""
        for action in ACTIONS:
            with self.subTest(action=action):
                answer = self.ask(*action.split(), CURL)
                self.assertEqual(answer.status, 401)
                self.assertEqual(
                    answer.headers["WWW-Authenticate"], 'Basic realm="OPQ Box", charset="UTF-8"'
                )
        self.assertEqual(self.bench.steps.begun, [])
        self.send("POST", "/box_update", f"Authorization: {basic(SECRET).decode()}")
        self.assertEqual(self.bench.steps.names, ["newest"])

    def test_too_many(self) -> None:
        """A client whose password is not checked gets 503, and not 401."""
        for _ in range(3):
            self.send("POST", "/check", f"Authorization: {basic('guess').decode()}")
        answer = self.ask("POST", "/check", f"Authorization: {basic(SECRET).decode()}")
        self.assertEqual((answer.status, answer.headers["Retry-After"]), (503, "10"))

    def test_another_page(self) -> None:
        """Another page cannot use a password that the browser knows."""
        header = f"Authorization: {basic(SECRET).decode()}"
        answer = self.ask("POST", "/box_update", header, "Sec-Fetch-Site: cross-site")
        self.assertEqual(answer.status, 403)
        self.assertEqual(self.bench.steps.begun, [])

    def test_seen(self) -> None:
        """Reading needs no password."""
        self.bench.board.publish(available=NEW)
        for path in ("/", "/status", "/version", "/history", "/log"):
            with self.subTest(path=path):
                self.assertEqual(self.ask("GET", path).status, 200)
