"""install_update.sh makes the Python environment of a release."""

import os
import subprocess

from tests.helpers.root_folder import AGENT, InstallCase, Result, executable


class EnvironmentTests(InstallCase):
    """The release has an environment of its own, made from its wheels."""

    def test_without_wheels(self) -> None:
        """An update without wheels makes no environment, and uses the machine's Python."""
        (self.box.unpack(100) / "wheels").rmdir()
        said = self.box.install(100)
        self.assertIn("No wheels in this update", said)
        self.assertFalse((self.box.prefix / "current" / "venv").exists())
        python = str(self.box.folder / "bin" / "python")
        self.assertTrue(self.launch(OPQ_PYTHON=python).startswith(f"{python} -I "))

    def test_launcher(self) -> None:
        """The agent runs from its release's own folder, which a later switch does not change."""
        self.install(100)
        venv = self.box.prefix.resolve() / "releases" / "100" / "venv" / "bin"
        self.assertEqual(
            self.launch("--port", "1"),
            f"{venv}/python -I -X no_debug_ranges -X faulthandler "
            f"{venv}/twistd --nodaemon --pidfile= opq-box-agent --port 1\n",
        )

    def launch(self, *arguments: str, **environment: str) -> str:
        launcher = self.box.prefix / "current" / AGENT / "bin" / "opq-box-agent"
        return subprocess.run(
            [launcher, *arguments],
            env={"PATH": os.environ["PATH"], **environment},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout


class OtherPythonTests(InstallCase):
    """A box whose python3 gets another version by an upgrade of its system."""

    def setUp(self) -> None:
        super().setUp()
        wheels = self.box.unpack(100) / "wheels"
        for version in ("311", "313", "314"):
            (wheels / f"x-1-cp{version}-cp{version}-linux_aarch64.whl").touch()
        (wheels / "y-1-cp39-abi3-linux_aarch64.whl").touch()
        self.venv = self.box.prefix / "releases" / "100" / "venv"

    def upgrade(self, version: str) -> None:
        """Upgrade the box's python3."""
        python = self.box.folder / f"python{version}"
        executable(python, "#!/bin/sh\n")
        (self.venv / "bin" / "python").unlink()
        (self.venv / "bin" / "python").symlink_to(python)

    def find(self) -> Result:
        """Return the Python that runs the release."""
        script = self.venv.parent / AGENT / "bin" / "release-python"
        return subprocess.run([script], capture_output=True, text=True)

    def test_packages_for_each(self) -> None:
        """The packages are installed for each version that the update has wheels for."""
        said = self.box.install(100)
        self.assertIn("The update has packages for Python 3.11 3.13 3.14; the box has 3.11.", said)
        packages = self.venv / "lib" / "python3.13" / "site-packages"
        agent = packages / (packages / "opq-box.pth").read_text().strip()
        self.assertEqual(agent.resolve(), (self.venv.parent / AGENT).resolve())
        for version in ("3.13", "3.14"):
            self.upgrade(version)
            found = self.find()
            self.assertEqual((found.stdout, found.stderr), (f"{self.venv}/bin/python\n", ""))

    def test_wheels_are_lacking(self) -> None:
        """A later version without all of its wheels is reported, and the install continues."""
        (self.box.services / "lacks-3.13").touch()
        said = self.box.install(100)
        self.assertIn("lacks what the agent needs after an upgrade to Python 3.13.", said)
        self.assertEqual(self.box.version("current"), 100)
        self.assertFalse((self.venv / "lib" / "python3.13" / "site-packages").exists())

    def test_earlier_python_is_kept(self) -> None:
        """If the new python3 has no packages, the earlier one runs the agent, if it exists."""
        self.box.install(100)
        before = self.box.folder / "python3.11"
        executable(before, "#!/bin/sh\n")
        (self.venv / "bin" / "python3.11").unlink()
        (self.venv / "bin" / "python3.11").symlink_to(before)
        self.upgrade("3.15")
        self.assertEqual(self.find().stdout, f"{self.venv}/bin/python3.11\n")
        before.unlink()
        lost = self.find()
        self.assertEqual((lost.returncode, lost.stdout), (1, ""))
        self.assertEqual(
            lost.stderr,
            "Release 100 has packages for Python 3.11, 3.13, 3.14, and the box has Python 3.15: "
            "install an update that was built with --python-version 3.15.\n",
        )

    def test_launchers(self) -> None:
        """Without any, the agent and its command line end with that sentence."""
        self.box.install(100)
        (self.venv / "bin" / "python").unlink()
        (self.venv / "bin" / "python3.11").unlink()
        for name in ("opq-box-agent", "opq-box"):
            result = subprocess.run(
                [self.venv.parent / AGENT / "bin" / name], capture_output=True, text=True
            )
            self.assertEqual(result.returncode, 1)
            self.assertIn("and the box has Python none", result.stderr)
            self.assertEqual(result.stderr.count("\n"), 1)
