"""The commands for those who may use the page."""

import io
import json
import os
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.cli.fleet.main import main
from opq_twisted.fleet.web.operators import Role, TokenHash, parse
from opq_twisted.http.guards import password
from opq_twisted.http.guards.password import PasswordHash
from tests.helpers.terminal import run_main

PASSWORD = "correct hörse battery"


class OperatorsCase(SynchronousTestCase):
    """A folder for the file."""

    def setUp(self) -> None:
        self.patch(password, "_LN", 4)  # It need not take long.
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.file = self.folder / "operators"

    def run_command(
        self, *arguments: str, line: str = f"{PASSWORD}\n", code: int = 0
    ) -> tuple[str, str]:
        self.patch(sys, "stdin", io.StringIO(line))
        status, out, error = run_main(main, *arguments, "--operators", str(self.file))
        self.assertEqual(status, code, error)
        return out, error

    def add(self, name: str, role: str = "operator", line: str = f"{PASSWORD}\n") -> str:
        return self.run_command("add-operator", name, "--role", role, line=line)[0]


class OperatorsTests(OperatorsCase):
    """What the commands do."""

    def test_add(self) -> None:
        """A new file is readable for its owner and its group only."""
        self.assertIn("anna may use the page of the fleet as operator.", self.add("anna"))
        found = parse(self.file.read_text())["anna"]
        assert isinstance(found.secret, PasswordHash)
        self.assertTrue(found.secret.matches(PASSWORD))
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o640)

    def test_change(self) -> None:
        """Another password or role takes the place of the one before; the mode stays."""
        self.add("anna")
        self.file.write_text(f"# us\n{self.file.read_text()}")
        self.file.chmod(0o600)
        self.add("anna", role="viewer", line="another one of mine\n")
        text = self.file.read_text()
        self.assertTrue(text.startswith("# us\nanna viewer "))
        self.assertEqual(len(parse(text)), 1)
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o600)

    def test_link(self) -> None:
        """A link is neither followed nor replaced: the server may read the file it leads to."""
        self.add("anna")
        self.file.rename(self.folder / "elsewhere")
        self.file.symlink_to("elsewhere")
        _, error = self.run_command("remove-operator", "anna", code=1)
        self.assertIn("name the file itself with --operators elsewhere", error)
        self.assertTrue(self.file.is_symlink())
        self.assertIn("anna", self.run_command("operators")[0])

    def test_token(self) -> None:
        """A token is printed once, and only its hash is kept."""
        out, _ = self.run_command("add-token", "grafana", "--role", "viewer")
        found = parse(self.file.read_text())["grafana"]
        self.assertEqual((found.role, found.secret), (Role.VIEWER, TokenHash.of(out.strip())))
        self.assertNotIn(out.strip(), self.file.read_text())
        self.assertGreaterEqual(len(out.strip()), 43)
        again, _ = self.run_command("add-token", "grafana", "--role", "viewer", "--json")
        self.assertNotEqual(json.loads(again)["token"], out.strip())

    def test_list_and_remove(self) -> None:
        """The list shows no hashes."""
        self.add("anna")
        self.run_command("add-token", "grafana", "--role", "viewer")
        out, _ = self.run_command("operators")
        self.assertEqual(
            [line.split() for line in out.splitlines()],
            [["anna", "operator", "password"], ["grafana", "viewer", "token"]],
        )
        out, _ = self.run_command("operators", "--json")
        first = json.loads(out.splitlines()[0])
        self.assertEqual(first, {"name": "anna", "role": "operator", "secret": "password"})
        self.run_command("remove-operator", "anna")
        self.assertEqual(list(parse(self.file.read_text())), ["grafana"])
        _, error = self.run_command("remove-operator", "anna", code=1)
        self.assertIn("There is no operator anna", error)

    def test_passwords(self) -> None:
        """A password that is too short or too long changes nothing; a short one is a warning."""
        for line in ("", "\n", "seven77\n", "x" * 1025):
            _, error = self.run_command(
                "add-operator", "anna", "--role", "viewer", line=line, code=1
            )
            self.assertIn("from 8 to 1024 characters", error)
        self.assertFalse(self.file.exists())
        _, error = self.run_command("add-operator", "anna", "--role", "viewer", line="eight888\n")
        self.assertIn("shorter than 15", error)

    def test_mistakes(self) -> None:
        """A wrong name, a file with a mistake or without access is one sentence."""
        for name in ("engine", "a b", "a:b", "ä", ""):
            for command in ("add-token", "add-operator"):
                _, error = self.run_command(command, name, "--role", "viewer", code=1)
                self.assertRegex(error, f"^opq-fleet: {name!r} (is reserved|cannot be the name)")
        _, error = self.run_command("operators", code=1)
        self.assertIn("is missing: opq-fleet add-operator makes it", error)
        self.file.write_text("nonsense\n")
        for line in ("operators", "add-token anna --role viewer"):
            _, error = self.run_command(*line.split(), code=1)
            self.assertIn(f"{self.file}, line 1: ", error)
        self.assertEqual(self.file.read_text(), "nonsense\n")
        self.file = self.folder / "missing" / "operators"
        _, error = self.run_command("add-token", "anna", "--role", "viewer", code=1)
        self.assertIn(f"The folder {self.file.parent} is missing: create it", error)

    def test_owner_of_new_file(self) -> None:
        """Root gives a new file to the owner of its folder, which is the server's user."""
        if os.geteuid() != 0:
            return
        os.chown(self.folder, 1234, 4321)
        self.add("anna")
        found = self.file.stat()
        self.assertEqual((found.st_uid, found.st_gid), (1234, 4321))
        os.chown(self.file, 0, 1234)
        self.add("vera")
        found = self.file.stat()
        self.assertEqual((found.st_uid, found.st_gid), (0, 1234))
