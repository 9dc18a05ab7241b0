"""Who may import whom: the contracts in pyproject.toml hold, and a breach of each is noticed."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from build_update import NOT_FOR_BOXES
from tests.helpers.project import PROJECT


def lint_imports(folder: Path) -> tuple[int, str]:
    """Check the contracts of a checkout; gives the exit status and what is printed."""
    program = Path(sys.executable).with_name("lint-imports")
    ended = subprocess.run(
        [program, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False
    )
    return ended.returncode, ended.stdout + ended.stderr


class ContractTests(SynchronousTestCase):
    """What `make lint` says of imports."""

    def copy(self) -> Path:
        """Copy the sources, and the contracts."""
        copy = Path(self.mktemp())
        shutil.copytree(PROJECT / "opq_twisted", copy / "opq_twisted")
        shutil.copy(PROJECT / "pyproject.toml", copy)
        return copy

    def test_kept(self) -> None:
        """The sources keep all contracts."""
        status, said = lint_imports(PROJECT)
        self.assertEqual(status, 0, said)

    def test_broken(self) -> None:
        """A forbidden import is found wherever it stands: in a function, or only for types."""
        copy = self.copy()
        breaches = (
            ("Programs", "server/metrics.py", "def f(): import opq_twisted.box.config.settings"),
            (
                "Programs",
                "box/config/settings.py",
                "if TYPE_CHECKING: import opq_twisted.server.limits",
            ),
            ("Programs", "common/files.py", "import opq_twisted.trust.offer"),
            ("Programs", "trust/offer.py", "import opq_twisted.signing.repository"),
            ("In the agent", "box/state/journal.py", "import opq_twisted.box.update.probation"),
            ("In the server", "server/catalog/watcher.py", "import opq_twisted.server.limits"),
            ("A box", "cli/box/adopt.py", "def f(): import opq_twisted.archive.build.pack"),
            ("Only the server", "server/metrics.py", "import opq_twisted.fleet.audit"),
            ("In the fleet", "fleet/store/room.py", "import opq_twisted.fleet.queries.silence"),
            ("No circle", "archive/name.py", "def f(): import opq_twisted.archive.member_rules"),
        )
        for _, importer, line in breaches:
            with (copy / "opq_twisted" / importer).open("a", encoding="utf-8") as source:
                source.write(f"\n{line}\n")
        status, said = lint_imports(copy)
        self.assertEqual(status, 1, said)
        _, *parts = re.split(r"(?m)^(.+)\n-{9,}$", said)
        for contract, importer, line in breaches:
            self.assertRegex(said, rf"(?m)^{contract}.* BROKEN\b")
            # Other breaches may break the same contract.
            titles = zip(parts[::2], parts[1::2], strict=True)
            [told] = [text for title, text in titles if title.startswith(contract)]
            imported = line.rpartition(".")[2]
            self.assertRegex(told, rf"\.{Path(importer).stem} -> (.+)?\.{imported} \(")

    def test_left_out(self) -> None:
        """What a box must not need is what the builder leaves out."""
        text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
        contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
        [box] = [each for each in contracts if each["id"] == "box"]
        left_out = [f"opq_twisted/{path}".rstrip("/").replace("/", ".") for path in NOT_FOR_BOXES]
        self.assertEqual(sorted(box["forbidden_modules"]), sorted(left_out))

    def test_new_package(self) -> None:
        """A package that no contract names is noticed."""
        copy = self.copy()
        (copy / "opq_twisted" / "attic").mkdir()
        (copy / "opq_twisted" / "attic" / "__init__.py").touch()
        status, said = lint_imports(copy)
        self.assertEqual(status, 1, said)
        self.assertIn("attic", said)


class AgentTests(SynchronousTestCase):
    """The idle agent has little memory."""

    def test_without(self) -> None:
        """The agent imports nothing that only its child processes or the server need."""
        names = {
            # Together 0.9 MB, which an idle agent would never use.
            *("argparse", "tarfile", "opq_twisted.archive.extract.unpack"),
            # A library of Twisted's client services, 0.4 MB.
            "automat",
            # TUF's client and its HTTP library, 2 MB: only a signed lookup imports them.
            *("tuf.ngclient", "urllib3"),
        }
        # An older treq, as in `make test-oldest`, imports urllib3 itself.
        if any(each.startswith("requests") for each in requires("treq") or ()):
            names -= {"urllib3"}
        program = f"import sys, opq_twisted.box.service; print(*sorted({names} & set(sys.modules)))"
        ended = subprocess.run(
            [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True
        )
        self.assertEqual(ended.stdout.split(), [])
