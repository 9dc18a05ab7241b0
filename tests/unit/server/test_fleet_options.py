"""The options of the fleet fit together, and cost nothing where there is no fleet."""

import os
import subprocess
import sys
from pathlib import Path

from twisted.application.service import MultiService
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.common.daemon_options import WrongCommandLine
from opq_twisted.common.errors import CannotStart
from opq_twisted.fleet.service import Fleet
from opq_twisted.server.service import Options, makeService
from tests.helpers.box_fakes import logged
from tests.helpers.project import PROJECT

#: Starts the server, and prints whether the packages of the database are there.
_LOADED = """
import sys
from opq_twisted.server.service import Options, makeService
options = Options()
options.parseOptions(sys.argv[1:])
makeService(options)
print(*sorted({"sqlalchemy", "alembic", "psycopg", "opq_twisted.fleet"} & set(sys.modules)))
"""

#: Lets these packages be missing.
_MISSING = 'import sys\nsys.modules["sqlalchemy"] = None\n'


class FleetOptionsTests(SynchronousTestCase):
    """The command line of a server with a fleet."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.url = f"sqlite:///{self.folder}/fleet.db"

    def start(self, *arguments: object) -> MultiService:
        options = Options()
        own = ("-d", self.folder, "-p", "tcp:0:interface=127.0.0.1", "--no-access-log")
        options.parseOptions([str(each) for each in (*own, *arguments)])
        service = makeService(options)
        assert isinstance(service, MultiService)
        return service

    def refusal(self, *arguments: object) -> str:
        return str(self.assertRaises(CannotStart, self.start, *arguments))

    def run_alone(self, script: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a script in a process of its own."""
        return subprocess.run(
            [sys.executable, "-c", script, "-d", self.folder, *arguments],
            capture_output=True,
            text=True,
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            check=False,
        )

    def test_useless(self) -> None:
        """Without a database, no option of the fleet has a meaning."""
        for option, value in (
            ("enrol", "closed"),
            ("enrol-token-file", "/x"),
            ("rollouts", "ask"),
            ("webhook", "http://localhost/"),
            ("webhook-secret-file", "/x"),
            ("widen-hours", "Mon-Thu/08-16"),
            ("shorten-rollouts", "10"),
            ("fleet-socket", "/x"),
            ("fleet-operators", "/x"),
            ("fleet-port", "8152"),
            ("fleet-host", "fleet.example"),
        ):
            self.assertEqual(
                self.refusal(f"--{option}", value), f"--{option} is of no use without --fleet-db."
            )

    def test_engine(self) -> None:
        """The engine runs beside the database, unless nobody wants its judgement."""
        for mode, engines in (("off", 0), ("observe", 1), ("ask", 1), ("auto", 1)):
            options = ("--fleet-db", self.url, "--rollouts", mode)
            [fleet] = [each for each in self.start(*options) if isinstance(each, Fleet)]
            self.assertEqual([type(each).__name__ for each in fleet].count("Engine"), engines)

    def test_no_key(self) -> None:
        """A server that judges rollouts without the key says that another one has to have it."""
        said = logged(self)
        self.start("--fleet-db", self.url, "--rollouts", "auto")
        self.assertIn("this server has no --timestamp-key", "\n".join(said))

    def test_wrong_url(self) -> None:
        """A URL of another kind is refused, and not quoted: it may have a password."""
        for url in (
            "",
            "fleet.db",
            "/var/lib/fleet.db",
            "sqlite://",
            "sqlite:///",
            "sqlite://sesame/fleet.db",
            "mysql://box:sesame@db/fleet",
            "postgresql+asyncpg://box:sesame@db/fleet",
            "postgresql://",
            "postgresql://box:sesame@[db/fleet",
            "postgresql://box:sesame@db:port/fleet",
        ):
            refusal = self.refusal("--fleet-db", url)
            self.assertIn("--fleet-db: give sqlite:///PATH", refusal)
            self.assertNotIn("sesame", refusal)

    def test_hours_and_factor(self) -> None:
        """Hours and a factor that make no sense are refused in a sentence."""
        for option, value, sentence in (
            ("widen-hours", "always", "give days and hours such as Mon-Thu/08-16."),
            ("shorten-rollouts", "0.5", "give a number from 1 to 100000."),
            ("shorten-rollouts", "nan", "give a number from 1 to 100000."),
            ("shorten-rollouts", "fast", "give a number from 1 to 100000."),
        ):
            arguments = ("--fleet-db", self.url, f"--{option}", value)
            error = self.assertRaises(WrongCommandLine, self.start, *arguments)
            self.assertIn(f"--{option} {value}: {sentence}", str(error))
        self.start("--fleet-db", self.url, "--widen-hours", "Fri/08-12", "--shorten-rollouts", "60")

    def test_token_without_file(self) -> None:
        """A token is needed for its mode of enrolment, and for no other."""
        for options in (("--enrol", "token"), ("--enrol-token-file", self.folder / "token")):
            self.assertEqual(
                self.refusal("--fleet-db", self.url, *options),
                "--enrol token and --enrol-token-file FILE need each other.",
            )

    def test_token_files(self) -> None:
        """The file has to be a regular one of limited size with a long token in its first line."""
        fifo, token = self.folder / "fifo", self.folder / "token"
        os.mkfifo(fifo)
        options = ("--fleet-db", self.url, "--enrol", "token", "--enrol-token-file")
        self.assertIn("not a regular file", self.refusal(*options, fifo))
        self.assertIn("Is a directory", self.refusal(*options, self.folder))
        self.assertIn("No such file", self.refusal(*options, token))
        for content, reason in (
            (b"x" * 5000, "more than 4096 bytes"),
            (b"\xff" * 20, "not UTF-8"),
            (b"sesame\n" * 20, "16 characters"),
            (b"", "16 characters"),
        ):
            token.write_bytes(content)
            refusal = self.refusal(*options, token)
            self.assertIn(reason, refusal)
            self.assertNotIn("sesame", refusal)

    def test_open_token(self) -> None:
        """A token that every user can read is told in the log."""
        token = self.folder / "token"
        token.write_text("0123456789abcdef\nwhat it is for\n")
        token.chmod(0o644)
        said = logged(self)
        options = ("--fleet-db", self.url, "--enrol", "token", "--enrol-token-file", token)
        self.start(*options)
        self.assertIn(f"chmod go-rwx {token}", said[0])
        token.chmod(0o600)
        said.clear()
        self.start(*options)
        self.assertEqual(said, [])

    def test_hosts(self) -> None:
        """What no browser sends as a name is refused, and not ignored."""
        page = ("--fleet-operators", "/x")
        for host in ("https://fleet.example/", "a.example, */", "*.example", "[::1]"):
            error = self.assertRaises(
                WrongCommandLine, self.start, "--fleet-db", self.url, *page, "--fleet-host", host
            )
            self.assertIn("give names such as fleet.example.org", str(error))

    def test_webhook(self) -> None:
        """The secret needs a webhook; the URL has no user, and is not quoted: it is a secret."""
        options = ("--fleet-db", self.url)
        self.assertEqual(
            self.refusal(*options, "--webhook-secret-file", "/x"),
            "--webhook-secret-file is of no use without --webhook.",
        )
        secret = self.folder / "secret"
        secret.write_text("sesame")
        given = ("--webhook", "https://chat.example.org/hooks/a?b=c", "--webhook-secret-file")
        refusal = self.refusal(*options, *given, secret)
        self.assertIn("must be a secret of 16 characters or more", refusal)
        secret.write_text("0123456789abcdef")
        secret.chmod(0o600)
        self.start(*options, *given, secret)
        for url in (
            "ftp://x/sesame",
            "https://anna:sesame@x/",
            "http://x/#sesame",
            "http://x:0/?s",
        ):
            error = self.assertRaises(WrongCommandLine, self.start, *options, "--webhook", url)
            self.assertIn("--webhook: give a URL such as https://chat.example.org", str(error))
            self.assertNotIn("sesame", str(error))

    def test_page(self) -> None:
        """The page needs a file of operators without mistakes, and a port."""
        options = ("--fleet-db", self.url)
        for option, value in (("fleet-port", "8152"), ("fleet-host", "fleet.example")):
            self.assertEqual(
                self.refusal(*options, f"--{option}", value),
                f"--{option} is of no use without --fleet-operators FILE.",
            )
        operators = self.folder / "operators"
        page = (*options, "--fleet-operators", operators)
        self.assertIn("cannot be read: No such file", self.refusal(*page))
        operators.write_text("anna\n")
        operators.chmod(0o640)
        self.assertIn("line 1: there must be a name", self.refusal(*page))
        operators.write_text("")
        self.assertIn("--fleet-port tcp:x: ", self.refusal(*page, "--fleet-port", "tcp:x"))
        self.start(*page, "--fleet-port", "tcp:0", "--fleet-host", "fleet.example, other.example")

    def test_nothing_imported(self) -> None:
        """Without a database, nothing of the fleet is in memory."""
        ended = self.run_alone(_LOADED)
        self.assertEqual((ended.stdout, ended.stderr), ("\n", ""))
        ended = self.run_alone(_LOADED, "--fleet-db", self.url)
        self.assertIn("opq_twisted.fleet sqlalchemy", ended.stdout)

    def test_missing_packages(self) -> None:
        """Where the packages are not installed, a sentence says which ones are needed."""
        ended = self.run_alone(_MISSING + _LOADED, "--fleet-db", self.url)
        self.assertEqual(ended.returncode, 1)
        self.assertIn("--fleet-db needs more Python packages", ended.stderr)
        self.assertIn("requirements-fleet.lock", ended.stderr)
        self.assertNotIn("Traceback", ended.stderr)
