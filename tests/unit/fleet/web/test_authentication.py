"""Who sends a request: people by passwords, programs by tokens."""

import base64
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.web.authentication import Authentication
from opq_twisted.fleet.web.operators import Operator, Role, TokenHash
from opq_twisted.fleet.web.operators_file import OperatorsFile
from opq_twisted.http.guards import password
from opq_twisted.http.guards.password import PasswordHash
from opq_twisted.http.guards.password_queue import TooManyAttempts


def basic(user: str, secret: str) -> bytes:
    """Make the header that a browser sends."""
    return b"Basic " + base64.b64encode(f"{user}:{secret}".encode())


class AuthenticationTests(SynchronousTestCase):
    """A person, another one, and a program."""

    def setUp(self) -> None:
        self.patch(password, "_LN", 4)  # It need not take long.
        self.clock = Clock()
        self.hashed = 0
        self.anna = Operator("anna", Role.OPERATOR, PasswordHash.of("hörse"))
        self.vera = Operator("vera", Role.VIEWER, PasswordHash.of("battery"))
        self.grafana = Operator("grafana", Role.VIEWER, TokenHash.of("token"))
        self.path = Path(self.mktemp())
        self.write(self.anna, self.vera, self.grafana)
        self.file = OperatorsFile(self.path)
        self.authentication = Authentication(self.clock, self.file, self.in_thread)

    def write(self, *operators: Operator) -> None:
        new = self.path.with_suffix(".new")
        new.write_text("".join(f"{each}\n" for each in operators))
        new.chmod(0o640)
        new.replace(self.path)

    def in_thread(self, *call: Any) -> Deferred[Any]:
        self.hashed += 1
        return maybeDeferred(*call)

    def ask(
        self, header: bytes | None, network: str | None = "192.0.2.1"
    ) -> Deferred[Operator | None]:
        return Deferred.fromCoroutine(self.authentication.identify(header, network))

    def found(self, header: bytes | None) -> Operator | None:
        asked = self.ask(header)
        self.clock.advance(1)
        return self.successResultOf(asked)

    def test_people(self) -> None:
        """Each has an own password, which is hashed once."""
        for _ in range(3):
            self.assertEqual(self.found(basic("anna", "hörse")), self.anna)
            self.assertEqual(self.found(basic("vera", "battery")), self.vera)
        self.assertEqual(self.hashed, 2)
        self.assertIsNone(self.found(basic("anna", "battery")))
        self.assertIsNone(self.found(basic("vera", "hörse")))

    def test_unknown_name(self) -> None:
        """A name that nobody has takes as long as a known one, also that of a program."""
        for name in ("nobody", "", "ANNA", "grafana"):
            with self.subTest(name=name):
                before = self.hashed
                asked = self.ask(basic(name, "token"))
                self.assertNoResult(asked)
                self.assertEqual(self.hashed, before + 1)
                self.clock.advance(1)
                self.assertIsNone(self.successResultOf(asked))

    def test_programs(self) -> None:
        """A token is compared without any wait."""
        self.assertEqual(self.successResultOf(self.ask(b"Bearer token")), self.grafana)
        self.assertEqual(self.successResultOf(self.ask(b"bearer  token ")), self.grafana)
        secret = str(self.grafana.secret).removeprefix("sha256:").encode()
        for header in (b"Bearer tokem", b"Bearer " + secret, b"Bearer " + b"x" * 10_000):
            self.assertIsNone(self.successResultOf(self.ask(header)))
        self.assertEqual(self.hashed, 0)

    def test_malformed(self) -> None:
        """A header without a name and a password is refused without hashing."""
        for header in (
            None,
            b"",
            b"Basic",
            b"Basic !",
            b"Bearer",
            b"Bearer ",
            b"Digest x",
            b"\xff",
        ):
            with self.subTest(header=header):
                self.assertIsNone(self.successResultOf(self.ask(header)))
        self.assertEqual(self.hashed, 0)

    def test_removed(self) -> None:
        """Who was removed does not get in any more, and a new password is needed at once."""
        self.found(basic("anna", "hörse"))
        self.write(Operator("vera", Role.OPERATOR, PasswordHash.of("staple")))
        self.assertIsNone(self.found(basic("anna", "hörse")))
        self.assertIsNone(self.found(b"Bearer token"))
        self.assertIsNone(self.found(basic("vera", "battery")))
        vera = self.found(basic("vera", "staple"))
        assert vera is not None
        self.assertIs(vera.role, Role.OPERATOR)

    def test_removed_meanwhile(self) -> None:
        """Who is removed while the password is checked does not get in."""
        checked: Deferred[bool] = Deferred()
        self.patch(self.authentication._check, "_in_thread", lambda *_: checked)
        asked = self.ask(basic("anna", "hörse"))
        self.write(self.vera)
        checked.callback(True)
        self.assertIsNone(self.successResultOf(asked))

    def test_guesses(self) -> None:
        """Guesses wait for each other, and one network has two waiting ones at most."""
        asked = [self.ask(basic("anna", str(number))) for number in range(5)]
        self.assertEqual(self.hashed, 1)
        for each in asked[3:]:
            self.failureResultOf(each, TooManyAttempts)
        other = self.ask(basic("vera", "battery"), "192.0.2.2")
        self.clock.advance(1)
        self.assertEqual(self.successResultOf(other), self.vera)
        for _ in range(3):
            self.clock.advance(1)
