"""Programs of root run no code from the current folder or the caller's environment."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.extract.child import child_command, child_environment
from tests.helpers.project import PROJECT

SHIPPED = PROJECT / "deploy" / "box" / "bin"


class StrangersModulesTests(SynchronousTestCase):
    """Another user has put modules into the current folder, and PYTHONPATH leads there."""

    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        self.home = self.root / "home"
        (self.home / "twisted" / "plugins").mkdir(parents=True)
        self.proof = self.root / "proof"
        code = f"open({str(self.proof)!r}, 'w').close()\nraise SystemExit('a stranger')\n"
        for name in ("argparse", "re", "site", "sitecustomize", "usercustomize", "opq_twisted"):
            (self.home / f"{name}.py").write_text(code)
        (self.home / "twisted" / "plugins" / "more.py").write_text(code)
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f":{self.home}",
            "PYTHONSTARTUP": str(self.home / "re.py"),
            "OPQ_PYTHON": sys.executable,
        }

    def assert_untouched(self, *command: str | Path) -> str:
        """Run a command there, and return its output."""
        done = subprocess.run(
            command, cwd=self.home, env=self.environment, capture_output=True, text=True
        )
        self.assertFalse(self.proof.exists(), done.stderr)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def release(self, *, with_venv: bool) -> Path:
        """Lay out a release, and return the folder of its programs."""
        agent = self.root / f"release-{with_venv}" / "box-configuration-daemon"
        shutil.copytree(SHIPPED, agent / "bin")
        for name in ("opq_twisted", "twisted"):
            (agent / name).symlink_to(PROJECT / name)
        if with_venv:
            self.make_venv(agent.parent / "venv", agent)
        return agent / "bin"

    def make_venv(self, venv: Path, agent: Path) -> None:
        """Lay out a virtual environment as the installer does, with the packages of this one."""
        packages = Path(sysconfig.get_path("purelib"))
        own = venv / packages.relative_to(sys.prefix)
        own.mkdir(parents=True)
        (own / "opq-box.pth").write_text(f"{agent}\n")
        (own / "packages.pth").write_text(f"{packages}\n")
        (venv / "bin").mkdir()
        (venv / "bin" / "python").symlink_to(sys.executable)
        (venv / "bin" / "twistd").symlink_to(Path(sys.executable).with_name("twistd"))
        shutil.copy(Path(sys.prefix, "pyvenv.cfg"), venv)

    def test_strangers_code_would_run(self) -> None:
        """Without protection, the modules are imported."""
        subprocess.run(
            [sys.executable, "-m", "opq_twisted.cli.box.main"], cwd=self.home, capture_output=True
        )
        self.assertTrue(self.proof.exists())

    def test_opq_box(self) -> None:
        """The command line runs the release's own modules, with its packages or the machine's."""
        for with_venv in (True, False):
            program = self.release(with_venv=with_venv) / "opq-box"
            self.assertIn("usage: opq-box", self.assert_untouched(program, "--help"))

    def test_agent(self) -> None:
        """The agent does the same."""
        for with_venv in (True, False):
            program = self.release(with_venv=with_venv) / "opq-box-agent"
            self.assertIn(
                "Usage: opq-box-agent [options]", self.assert_untouched(program, "--help")
            )

    def test_unpacker(self) -> None:
        """The unpacking child uses the agent's modules, and not those of its current folder."""
        self.patch(sys, "path", ["", ".", "home", *sys.path])
        self.environment = child_environment()
        command = child_command(1, self.root / "unpacked")
        self.assertIn("usage:", self.assert_untouched(*command, "--help"))
