"""The shipped install_update.sh, run as it is: what it leaves behind, interrupted or not."""

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.helpers.privileges import lacking
from tests.helpers.project import PROJECT
from tests.helpers.root_folder import (
    AGENT,
    BAD_CONFIGURATION,
    BEGIN_FINISH,
    ENABLED,
    END_FINISH,
    FINISH,
    PYTHON,
    RESCUE_UNITS,
    SHIPPED,
    Result,
    RootFolder,
    executable,
    namespace,
    service,
)
from tests.helpers.torture import TORTURE, stride


class InstallCase(SynchronousTestCase):
    """A box in a folder of its own, whose path has a space in it."""

    def setUp(self) -> None:
        self.box = RootFolder.fresh(Path(self.mktemp()).absolute() / "a box")

    def assert_refused(self, result: Result, *words: str) -> None:
        self.assertEqual(result.returncode, 1)
        self.assertTrue(result.stderr.startswith("install_update.sh: "), result.stderr)
        self.assertEqual(result.stderr.count("\n"), 1)
        for word in words:
            self.assertIn(word, result.stderr)


class SandboxTests(InstallCase):
    """Installing where services are not to be managed."""

    def test_first_install(self) -> None:
        """A fresh box gets its first release, and has no previous one."""
        self.box.unpack(100)
        said = self.box.install(100)
        self.assertEqual(self.box.state(), (100, None, {"100"}))
        self.assertIn("and not rebooting: OPQ_SYSTEMD is no.", said)

    def test_updates(self) -> None:
        """An update keeps the release before it, and removes older ones."""
        for version in (100, 200, 300):
            self.box.unpack(version)
            self.box.install(version)
        self.assertEqual(self.box.state(), (300, 200, {"200", "300"}))

    def test_link_among_releases(self) -> None:
        """A link that somebody put among the releases goes alone, not what it leads to."""
        self.box.unpack(100)
        self.box.install(100)
        (self.box.prefix / "releases" / "latest").symlink_to("100")
        self.box.install(100)
        self.assertEqual(self.box.state(), (100, None, {"100"}))

    def test_reinstall(self) -> None:
        """Installing the current release again keeps its folder, and the previous one."""
        for version in (100, 200):
            self.box.unpack(version)
            self.box.install(version)
        self.assertIn("keeping it", self.box.install(200))
        self.assertEqual(self.box.state(), (200, 100, {"100", "200"}))

    def test_return(self) -> None:
        """Returning to the previous release builds it afresh, whatever became of its files."""
        for version in (100, 200):
            self.box.unpack(version)
            self.box.install(version)
        sample = self.box.prefix / "releases" / "100" / AGENT / "opqbox_config.json"
        sample.write_text("rotten")
        self.box.install(100)
        self.assertEqual(self.box.state(), (100, 200, {"100", "200"}))
        self.assertEqual(sample.read_text(), (SHIPPED / "opqbox_config.json").read_text())

    def test_moved_prefix(self) -> None:
        """The links are relative: a prefix that was moved still holds its releases."""
        for version in (100, 200):
            self.box.unpack(version)
            self.box.install(version)
        self.assertEqual(self.box.copy(self.box.folder.parent / "b").state()[:2], (200, 100))

    def test_missing_version(self) -> None:
        """A folder without VERSION is no update."""
        (self.box.unpack(100) / "VERSION").unlink()
        self.assert_refused(self.box.run(100), "no VERSION")

    def test_odd_version(self) -> None:
        """A VERSION that is no version is refused, and cannot lead out of the prefix."""
        version = self.box.unpack(100) / "VERSION"
        for text in ("", "0", "007", "../1", "1 2", "1\n2", "v1", "1" * 16):
            version.write_text(text)
            result = self.box.run(100)
            self.assertEqual(result.returncode, 1, text)
            self.assertIn("seconds since the epoch", result.stderr)
        self.assertFalse(self.box.prefix.exists())

    def test_another_version_expected(self) -> None:
        """An update that is not the one the agent means to install is refused."""
        self.box.unpack(100)
        self.assert_refused(self.box.run(100, OPQ_VERSION="200"), "100", "200")

    def test_odd_environment(self) -> None:
        """A setting that makes no sense is named."""
        self.box.unpack(100)
        self.assert_refused(self.box.run(100, OPQ_PREFIX="opq"), "OPQ_PREFIX", "not opq")
        self.assert_refused(self.box.run(100, OPQ_REBOOT="0"), "OPQ_REBOOT", "not 0")
        self.assert_refused(self.box.run(100, OPQ_SYSTEMD="yes"), "OPQ_SYSTEMD", "not yes")

    def test_image_version(self) -> None:
        """The first release that was installed stays on record as that of the box's image."""
        for version in (200, 300, 100):
            self.box.unpack(version)
            said = self.box.install(version)
            self.assertEqual("Recorded release 200" in said, version == 200)
            self.assertEqual(self.box.image_file.read_text(), "200\n")

    def test_image_version_of_an_older_box(self) -> None:
        """A box that had releases before this was on record has the one that is live then."""
        for version in (100, 200, 300):
            self.box.unpack(version)
        self.box.install(100)
        self.box.install(200)
        self.box.image_file.unlink()
        self.box.install(300)
        self.assertEqual(self.box.image(), 200)

    def test_image_version_of_a_reinstall(self) -> None:
        """A release that is installed once more was live before, and is on record from then on."""
        self.box.unpack(100)
        self.box.install(100)
        self.box.image_file.unlink()
        self.box.install(100)
        self.assertEqual(self.box.image(), 100)

    def test_image_version_where_the_live_one_is_unknown(self) -> None:
        """What was live and does not say its version is not put on record, but what comes next."""
        for version in (100, 200):
            self.box.unpack(version)
        old = self.box.prefix / "current" / "VERSION"
        for text in ("", "v1", "0", "1" * 16, "1 2", "\0\0\0\0", None):
            self.box.install(100)
            self.box.image_file.unlink()
            old.unlink() if text is None else old.write_text(text)
            self.box.install(200)
            self.assertEqual(self.box.image(), 200, text)

    def test_image_version_is_kept(self) -> None:
        """What is on record is never replaced, whatever it is."""
        self.box.unpack(100)
        self.box.prefix.mkdir()
        self.box.image_file.write_text("")
        self.box.install(100)
        self.assertEqual(self.box.image_file.read_text(), "")
        self.box.image_file.unlink()
        self.box.image_file.symlink_to("gone")
        self.box.install(100)
        self.assertTrue(self.box.image_file.is_symlink())

    def test_image_version_cut_short(self) -> None:
        """The record gets its name only when it is whole and on the disk."""
        self.box.unpack(100)
        sync = shutil.which("sync")
        self.box.tool(
            "sync",
            f'#!/bin/sh\ncase $1 in *IMAGE*) : >"$1"; kill -9 0 ;; esac\nexec {sync} "$@"\n',
        )
        self.assertEqual(self.box.run(100).returncode, -signal.SIGKILL)
        self.assertEqual((self.box.image(), self.box.version("current")), (None, None))
        (self.box.folder / "bin" / "sync").unlink()
        self.box.install(100)
        self.assertEqual(self.box.image(), 100)

    def test_image_version_of_a_release_that_is_refused(self) -> None:
        """A release that is not made current is not put on record."""
        for version in (100, 200):
            self.box.unpack(version)
        self.box.tool("python", PYTHON.replace('echo "$0" "$@"', "exit 1"))
        self.assert_refused(self.box.run(100), "wheels/ lacks what the agent needs")
        self.assertEqual(self.box.image(), None)
        self.box.tool("python", PYTHON)
        self.box.install(200)
        self.assertEqual(self.box.image(), 200)

    def test_two_at_once(self) -> None:
        """A second install is refused while one is under way."""
        self.box.unpack(100)
        self.box.prefix.mkdir()
        with (self.box.prefix / ".install.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.assert_refused(self.box.run(100), "another install is under way")
        self.box.install(100)

    def test_agent_that_does_not_start(self) -> None:
        """A release whose agent cannot start is not made current."""
        for version in (100, 200):
            self.box.unpack(version)
        self.box.install(100)
        self.box.tool(
            "python", PYTHON.replace('echo "$0" "$@"', 'case "$*" in *help) exit 1; esac')
        )
        self.assert_refused(self.box.run(200), "the agent of release 200 does not start")
        self.assertEqual(self.box.version("current"), 100)

    def test_no_room(self) -> None:
        """When a command fails, its message and a sentence say so; the release in use stays."""
        for version in (100, 200):
            self.box.unpack(version)
        self.box.install(100)
        self.box.tool("cp", "#!/bin/sh\necho 'cp: No space left on device' >&2\nexit 1\n")
        result = self.box.run(200)
        self.assertEqual(result.returncode, 1)
        self.assertEqual(
            result.stderr.splitlines(),
            [
                "cp: No space left on device",
                "install_update.sh: stopped by the error above: mend it and run this script again.",
            ],
        )
        self.assertEqual(self.box.version("current"), 100)

    def test_copy_cut_short(self) -> None:
        """A release that was copied in part only is built afresh."""
        self.box.unpack(100)
        self.box.tool(
            "cp", '#!/bin/sh\nmkdir "$3"; echo half >"$3/opqbox_config.json"; kill -9 0\n'
        )
        self.assertEqual(self.box.run(100).returncode, -signal.SIGKILL)
        (self.box.folder / "bin" / "cp").unlink()
        self.box.install(100)
        self.assertEqual(self.box.version("current"), 100)

    def test_removal_cut_short(self) -> None:
        """A release that was removed in part is none, whatever is left of it."""
        for version in (100, 200):
            self.box.unpack(version)
            self.box.install(version)
        rm = shutil.which("rm")
        self.box.tool(
            "rm",
            f'#!/bin/sh\n[ "$1" = -rf ] || exec {rm} "$@"\n{rm} -r "$2/{AGENT}/bin"\nkill -9 0\n',
        )
        self.assertEqual(self.box.run(100).returncode, -signal.SIGKILL)
        self.assertEqual(self.box.state(), (200, None, {"100", "200"}))
        (self.box.folder / "bin" / "rm").unlink()
        self.box.install(100)
        self.assertEqual(self.box.state(), (100, 200, {"100", "200"}))

    def test_without_wheels(self) -> None:
        """An update without wheels says so, makes no environment, and uses the machine's Python."""
        (self.box.unpack(100) / "wheels").rmdir()
        said = self.box.install(100)
        self.assertIn("No wheels in this update", said)
        self.assertFalse((self.box.prefix / "current" / "venv").exists())
        python = str(self.box.folder / "bin" / "python")
        self.assertTrue(self.launch(OPQ_PYTHON=python).startswith(f"{python} -I "))

    def test_launcher(self) -> None:
        """The agent runs from its release's own folder, which a later switch leaves alone."""
        self.box.unpack(100)
        self.box.install(100)
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

    def test_real_wheels(self) -> None:
        """The release gets an environment from its wheels, where twistd finds the agent."""
        update = self.box.unpack(100)
        requirements = shutil.copy(PROJECT / "requirements.txt", update / AGENT)
        for name in ("opq_twisted/__init__.py", "opq_twisted/box/__init__.py"):
            (update / AGENT / name).parent.mkdir()
            (update / AGENT / name).touch()
        (update / AGENT / "opq_twisted" / "box" / "service.py").write_text(
            "import treq\nfrom twisted.python.usage import Options\n"
        )
        shutil.copytree(PROJECT / "twisted" / "plugins", update / AGENT / "twisted" / "plugins")
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:"]
        fetched = subprocess.run(
            [*download, "--dest", update / "wheels", "--requirement", requirements, "pip"],
            capture_output=True,
            text=True,
        )
        if fetched.returncode != 0:
            raise lacking(f"No wheels to install from: {fetched.stderr}")
        self.box.install(100, OPQ_PYTHON=sys.executable)
        self.assertTrue(
            (self.box.prefix / "current" / AGENT / "twisted" / "plugins" / "dropin.cache").exists()
        )
        self.assertIn("twistd [options] opq-box-agent", self.launch("--help"))
        moved = self.box.copy(self.box.folder.parent / "moved").prefix / "current" / "venv" / "bin"
        listing = subprocess.run(
            [moved / "python", moved / "twistd", "--help"], capture_output=True, text=True, cwd="/"
        )
        self.assertIn("Keep an OPQ box up to date.", listing.stdout)


class BoxFaultTests(InstallCase):
    """A box that cannot take a release keeps the one before, and nothing stays of the new one."""

    def setUp(self) -> None:
        super().setUp()
        self.box.unpack(100)
        self.box.install(100)
        self.box.unpack(200)

    def assert_unfit(self, result: Result, sentence: str) -> None:
        """The script has found the box at fault, says so last, and leaves no copy."""
        self.assertEqual(result.returncode, 75, result)
        self.assertIn(sentence, result.stderr.splitlines()[-1])
        self.assertEqual(self.box.state(), (100, None, {"100"}))

    def test_room_is_asked_for_first(self) -> None:
        """A release for which there is no room is not begun."""
        self.box.tool("df", "#!/bin/sh\necho Avail\necho 20000\n")
        (self.box.folder / "opq-box-update-200" / "wheels").mkdir(exist_ok=True)
        (self.box.folder / "opq-box-update-200" / "wheels" / "big").write_bytes(bytes(4 << 20))
        self.assert_unfit(self.box.run(200), "MiB free under")
        (self.box.folder / "bin" / "df").unlink()
        self.box.install(200)

    def test_files_are_counted(self) -> None:
        """So is one for whose files there are no inodes."""
        self.box.tool("df", "#!/bin/sh\ncase $* in *iavail*) echo 3 ;; *) echo 999999 ;; esac\n")
        self.assert_unfit(self.box.run(200), "and there is room for 3. Remove some.")

    def test_nothing_can_be_written(self) -> None:
        """Where nothing can be written, the box is at fault."""
        self.box.tool("head", "#!/bin/sh\necho 'head: x: No space left on device' >&2\nexit 1\n")
        self.assert_unfit(self.box.run(200), f"cannot write in {self.box.prefix}: No space left")

    def test_nothing_can_be_run(self) -> None:
        """Where no program can be run, it is, too."""
        self.box.tool("chmod", '#!/bin/sh\nexec /bin/chmod 600 "$2"\n')
        self.assert_unfit(self.box.run(200), "Mount it without noexec.")

    def test_disk_fills_up(self) -> None:
        """A copy that fills the disk is measured before it is removed."""
        self.box.tool("cp", '#!/bin/sh\necho half >"$3"; exit 1\n')
        self.box.tool(
            "head",
            f"#!/bin/sh\n[ ! -e {shlex.quote(str(self.box.prefix))}/releases/200 ] || "
            "{ echo 'head: x: No space left on device' >&2; exit 1; }\n",
        )
        self.assert_unfit(self.box.run(200), "No space left on device. Mend that")

    def test_python_is_gone(self) -> None:
        """Where the box's own Python makes no virtual environment, the release is not to blame."""
        (self.box.folder / "opq-box-update-200" / "wheels").mkdir(exist_ok=True)
        self.assert_unfit(self.box.run(200, OPQ_PYTHON="/gone/python3"), "install Python 3.11")

    def test_unfinished_are_removed(self) -> None:
        """What a power cut has left of another release goes before there is asked for room."""
        (self.box.prefix / "releases" / "150").mkdir()
        self.assertIn("Removing 150, which was not finished.", self.box.install(200))
        self.assertEqual(self.box.state(), (200, 100, {"100", "200"}))


class OtherPythonTests(InstallCase):
    """A box whose python3 becomes another version by an upgrade of its system."""

    def setUp(self) -> None:
        super().setUp()
        wheels = self.box.unpack(100) / "wheels"
        for version in ("311", "313", "314"):
            (wheels / f"x-1-cp{version}-cp{version}-linux_aarch64.whl").touch()
        (wheels / "y-1-cp39-abi3-linux_aarch64.whl").touch()
        self.venv = self.box.prefix / "releases" / "100" / "venv"

    def upgrade(self, version: str) -> None:
        """Let the box's python3 be of another version."""
        python = self.box.folder / f"python{version}"
        executable(python, "#!/bin/sh\n")
        (self.venv / "bin" / "python").unlink()
        (self.venv / "bin" / "python").symlink_to(python)

    def find(self) -> Result:
        """Ask which Python runs the release."""
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
        """A later version for which not all wheels are there is told, and holds up nothing."""
        self.box.services.mkdir()
        (self.box.services / "lacks-3.13").touch()
        said = self.box.install(100)
        self.assertIn("lacks what the agent needs after an upgrade to Python 3.13.", said)
        self.assertEqual(self.box.version("current"), 100)
        self.assertFalse((self.venv / "lib" / "python3.13" / "site-packages").exists())

    def test_earlier_python_is_kept(self) -> None:
        """Where the new python3 has no packages, the one before runs the agent, if it is there."""
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
        """The agent and its command line end with that sentence."""
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


class ArgumentTests(InstallCase):
    """What may be written behind the script's name."""

    def test_refused(self) -> None:
        """An argument that the script does not know is refused, and nothing is installed."""
        self.box.unpack(100)
        for arguments in (("--dry-run",), ("-h",), ("",), ("--check", "--help"), ("200",)):
            result = self.box.type(100, *arguments)
            self.assertEqual(result.returncode, 2)
            self.assertIn("there are no arguments but --check and --help", result.stderr)
            self.assertEqual(result.stderr.count("\n"), 1)
        self.assertFalse(self.box.prefix.exists())

    def test_help(self) -> None:
        """The help is the beginning of the script, and nothing is installed."""
        self.box.unpack(100)
        result = self.box.type(100, "--help")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertTrue(result.stdout.startswith("Install the release beside this script"))
        self.assertIn("./install_update.sh --check ", result.stdout)
        self.assertIn("OPQ_REBOOT ", result.stdout)
        self.assertFalse(self.box.prefix.exists())

    def test_check(self) -> None:
        """The check says what would happen, and changes nothing."""
        service(self.box.unpack(100), "triggering", "opq-triggering.service")
        self.box.install(100, managed=True)
        self.box.asked()
        service(self.box.unpack(200), "triggering", "opq-new.service")
        executable(self.box.folder / "opq-box-update-200" / "kernel" / "install.sh", "#!/bin/sh\n")
        files = {path: path.lstat().st_mtime_ns for path in self.box.changeable()}
        result = self.box.type(200, "--check", managed=True)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        for words in (
            "Installed: 100. Release here: 200.",
            "would be stopped: opq-box-agent.service opq-triggering.service.",
            "would be enabled: opq-box-agent.service opq-new.service.",
            "kernel/install.sh would be run.",
            "would be rebooted",
            "This script would install release 200.",
        ):
            self.assertIn(words, result.stdout)
        self.assertEqual({path: path.lstat().st_mtime_ns for path in self.box.changeable()}, files)
        self.assertEqual(self.box.asked(), [])

    def test_check_of_an_older_release(self) -> None:
        """The check says that a release is older, and ends as the installation would."""
        self.box.unpack(100)
        self.box.unpack(200)
        self.box.install(200)
        older = self.box.type(100, "--check", OPQ_VERSION="")
        self.assert_refused(older, "release 100 is older than the installed one, 200")
        self.assertEqual(self.box.type(100, "--check", OPQ_VERSION="100").returncode, 0)
        self.assertEqual(self.box.state(), (200, None, {"200"}))

    def test_check_of_a_configuration(self) -> None:
        """The check says that the release cannot use the box's configuration."""
        self.box.unpack(100)
        self.box.config.parent.mkdir()
        self.box.config.write_text("{}")
        self.box.tool("python", PYTHON.replace("    *)", BAD_CONFIGURATION))
        result = self.box.type(100, "--check", managed=True)
        self.assertEqual(result.returncode, 75)
        self.assertIn("cannot use this box's configuration", result.stderr)
        self.assertEqual(list(self.box.prefix.rglob("*")), [])

    def test_check_of_an_unfit_box(self) -> None:
        """The check says what the box lacks, as the installation would."""
        self.box.unpack(100)
        self.box.prefix.write_text("no folder")
        result = self.box.type(100, "--check")
        self.assertEqual(result.returncode, 75)
        self.assertIn(f"cannot write in {self.box.prefix}: it is no folder", result.stderr)
        self.box.prefix.unlink()
        self.box.tool("findmnt", "#!/bin/sh\necho rw,noexec,relatime\n")
        result = self.box.type(100, "--check")
        self.assertEqual(result.returncode, 75)
        self.assertIn("it is mounted noexec", result.stderr)
        (self.box.folder / "bin" / "findmnt").unlink()
        self.box.tool("head", "#!/bin/sh\necho 'head: x: No space left on device' >&2\nexit 1\n")
        result = self.box.type(100, "--check")
        self.assertEqual(result.returncode, 75)
        self.assertIn("No space left on device", result.stderr)

    def test_older_release(self) -> None:
        """An older release is installed by hand only where somebody names it."""
        self.box.unpack(100)
        self.box.unpack(200)
        self.box.install(200)
        refused = self.box.run(100, OPQ_VERSION="")
        self.assert_refused(refused, "is older than the installed one, 200", "OPQ_VERSION=100")
        self.assertEqual(self.box.state(), (200, None, {"200"}))
        self.box.install(100, OPQ_VERSION="100")
        self.assertEqual(self.box.version("current"), 100)


class ManagedTests(InstallCase):
    """Installing as root where systemd runs."""

    def test_by_hand(self) -> None:
        """Run by hand the script installs and enables all services, and reboots the box."""
        service(self.box.unpack(100), "triggering", "opq-triggering.service")
        said = self.box.install(100, managed=True)
        self.assertEqual(
            self.box.asked(),
            [
                *BEGIN_FINISH,
                "daemon-reload",
                ENABLED,
                "daemon-reload",
                "--quiet enable opq-box-agent.service opq-triggering.service",
                END_FINISH,
                "reboot",
            ],
        )
        self.assertIn("Put a sample configuration at /etc/opq/opqbox_config.json", said)
        self.assertEqual(
            {path.name for path in self.box.units.iterdir()},
            {"opq-box-agent.service", "opq-triggering.service", *RESCUE_UNITS},
        )

    def test_command(self) -> None:
        """opq-box can be called by its name, as it is in the release that is current."""
        link = self.box.folder / "usr" / "local" / "bin" / "opq-box"
        self.box.unpack(100)
        self.box.install(100, managed=True)
        self.assertEqual(os.readlink(link), f"/opt/opq/current/{AGENT}/bin/opq-box")
        link.unlink()
        link.symlink_to("/home/somebody/opq-box")
        self.box.unpack(200)
        self.box.install(200, managed=True)
        self.assertEqual(os.readlink(link), "/home/somebody/opq-box")

    def test_update_by_hand(self) -> None:
        """Before the switch every service of either release is stopped; gone ones are removed."""
        service(self.box.unpack(100), "triggering", "opq-old.service")
        service(self.box.unpack(200), "triggering", "opq-new.service")
        (self.box.units / "ssh.service").write_text("[Service]\nExecStart=/usr/sbin/sshd\n")
        self.box.install(100, managed=True)
        self.box.asked()
        self.box.install(200, managed=True)
        self.assertEqual(
            self.box.asked(),
            [
                *BEGIN_FINISH,
                "stop opq-box-agent.service opq-old.service",
                "daemon-reload",
                "--quiet enable opq-box-agent.service opq-new.service",
                "--quiet disable opq-old.service",
                "daemon-reload",
                END_FINISH,
                "reboot",
            ],
        )
        self.assertEqual(
            {path.name for path in self.box.units.iterdir()},
            {"opq-box-agent.service", "opq-new.service", "ssh.service", *RESCUE_UNITS},
        )

    def test_by_the_agent(self) -> None:
        """Run by the agent the script leaves the agent alive, and the reboot to it."""
        service(self.box.unpack(100), "triggering", "opq-triggering.service")
        self.box.install(100, managed=True)
        self.box.asked()
        self.box.install(100, managed=True, OPQ_REBOOT="no", OPQ_UNIT="opq-box-install.service")
        self.assertEqual(
            self.box.asked(),
            [
                "stop opq-triggering.service",
                "daemon-reload",
                "--quiet enable opq-box-agent.service opq-triggering.service",
            ],
        )

    def test_configuration_is_kept(self) -> None:
        """The owner's configuration is never replaced."""
        self.box.unpack(100)
        self.box.config.parent.mkdir()
        self.box.config.write_text("mine")
        self.box.install(100, managed=True)
        self.assertEqual(self.box.config.read_text(), "mine")

    def test_trusted_root(self) -> None:
        """A box that has no root gets the update's, which everyone may read; no release has one."""
        root = self.box.unpack(100) / "root.json"
        root.write_text("new")
        root.chmod(0o700)
        said = self.box.install(100, managed=True)
        self.assertIn("Put a trusted root at /etc/opq/root.json", said)
        self.assertEqual(self.box.root.read_text(), "new")
        self.assertEqual(self.box.root.stat().st_mode & 0o7777, 0o644)
        self.assertFalse(self.box.root.is_symlink())
        self.assertEqual(
            {path.name for path in self.box.root.parent.iterdir()},
            {"opqbox_config.json", "root.json"},
        )
        self.assertEqual(list(self.box.prefix.rglob("root.json")), [])

    def test_trusted_root_comes_before_the_switch(self) -> None:
        """The root is there when the release becomes current, and after all that may still fail."""
        (self.box.unpack(100) / "root.json").write_text("new")
        executable(
            self.box.folder / "opq-box-update-100" / "kernel" / "install.sh", "#!/bin/sh\nexit 3\n"
        )
        refused = self.box.run(100, managed=True)
        self.assertIn("kernel/install.sh failed", refused.stdout)
        self.assertFalse(self.box.root.exists())
        (self.box.folder / "opq-box-update-100" / "kernel" / "install.sh").unlink()
        said = self.box.install(100, managed=True)
        put, enabled, live = map(
            said.index, ("Put a trusted root", "Enabling", "Release 100 is now current.")
        )
        self.assertTrue(enabled < put < live, said)

    def test_trusted_root_cut_short(self) -> None:
        """A root that was copied in part only is none, and the next run puts a whole one there."""
        (self.box.unpack(100) / "root.json").write_text("new")
        self.box.tool("install", '#!/bin/sh\necho half >"$4"\nkill -9 0\n')
        self.assertNotEqual(self.box.run(100, managed=True).returncode, 0)
        self.assertFalse(self.box.root.exists())
        (self.box.folder / "bin" / "install").unlink()
        self.box.boot()
        self.assertEqual(self.box.root.read_text(), "new")

    def test_trusted_root_after_a_reinstall(self) -> None:
        """A box whose root was lost gets it by installing its release once more."""
        (self.box.unpack(100) / "root.json").write_text("new")
        self.box.install(100, managed=True)
        self.box.root.unlink()
        self.assertIn("keeping it", self.box.install(100, managed=True))
        self.assertEqual(self.box.root.read_text(), "new")

    def test_trusted_root_is_kept(self) -> None:
        """A root that is there is never replaced, be it empty, a folder, or a link to nothing."""
        (self.box.unpack(100) / "root.json").write_text("new")
        root = self.box.root
        root.parent.mkdir()
        for make, is_as_before in (
            (lambda: root.write_text("mine"), lambda: root.read_text() == "mine"),
            (lambda: root.write_text(""), lambda: root.read_text() == ""),
            (lambda: root.symlink_to("gone"), lambda: str(root.readlink()) == "gone"),
        ):
            make()
            self.assertNotIn("trusted root", self.box.install(100, managed=True))
            self.assertTrue(is_as_before())
            self.assertFalse(root.with_name("gone").exists())
            root.unlink()
        root.mkdir()
        self.box.install(100, managed=True)
        self.assertEqual(list(root.iterdir()), [])

    def test_without_trusted_root(self) -> None:
        """An update that brings no root leaves a box without one."""
        self.box.unpack(100)
        self.assertNotIn("trusted root", self.box.install(100, managed=True))
        self.assertFalse(self.box.root.exists())

    def test_caller_is_ended(self) -> None:
        """A component that stops the unit of the script's caller does not stop the installation."""
        self.box.older_daemon()
        script = self.box.unpack(100) / "kernel" / "install.sh"
        executable(script, "#!/bin/sh\nexec systemctl disable --now old.service\n")
        # The caller is the group that this shell begins.
        caller = ("sh", "-c", 'echo "$$" >"$STATE/caller" && exec "$0"')
        result = self.box.run(100, *caller, managed=True)
        self.assertEqual(result.returncode, -signal.SIGKILL, result)
        with (self.box.prefix / ".install.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # Until the script has ended.
        self.assertEqual(self.box.version("current"), 100)
        self.assertTrue(self.box.is_service("enabled", "opq-box-agent.service"))
        self.assertEqual(self.box.asked()[-1], "reboot")

    def test_caller_writes_into_the_log(self) -> None:
        """A caller that sends the output into the log, as an earlier agent does, has it once."""
        self.box.unpack(100)
        log = "/var/log/opq/box_update.log"
        caller = ("sh", "-c", f'mkdir -p {log.rpartition("/")[0]} && exec "$0" >>{log} 2>&1')
        result = self.box.run(100, *caller, managed=True)
        self.assertEqual(result.returncode, 0, result)
        self.assertEqual(self.box.update_log.read_text().count("is now current"), 1)

    def test_failure_after_a_service_was_disabled(self) -> None:
        """When a later component fails, the services that an earlier one has ended are back."""
        self.box.older_daemon()
        update = self.box.unpack(100)
        script = "#!/bin/sh\nexec systemctl disable --now old.service\n"
        executable(update / "firmware" / "install.sh", script)
        executable(update / "kernel" / "install.sh", "#!/bin/sh\nexit 3\n")
        self.box.run(100, managed=True)
        self.assertIsNone(self.box.version("current"))
        self.assertTrue(self.box.is_service("enabled", "old.service"))
        self.assertTrue(self.box.is_service("active", "old.service"))
        self.assertNotIn("reboot", self.box.asked())

    def test_component_finds_the_box_at_fault(self) -> None:
        """Exit status 75 of a component is passed on; those before it are taken back."""
        done = self.box.folder / "done"
        for release in (100, 200):
            update = self.box.unpack(release)
            executable(
                update / "firmware" / "install.sh",
                f'#!/bin/sh\necho "$OPQ_VERSION" >>{shlex.quote(str(done))}\n',
            )
            executable(
                update / "kernel" / "install.sh", f"#!/bin/sh\nexit {75 * (release == 200)}\n"
            )
        self.box.install(100, managed=True)
        result = self.box.run(200, managed=True, OPQ_UNIT="agents.service")
        self.assertEqual(result.returncode, 75, result)
        self.assertIn("kernel/install.sh finds this box at fault", result.stderr)
        self.assertEqual(done.read_text().split(), ["100", "200", "100"])
        self.assertEqual(self.box.version("current"), 100)

    def test_interrupted_again_and_again(self) -> None:
        """An installation that ends the machine three times is given up; the box is as before."""
        self.box.older_daemon()
        update = self.box.unpack(100)
        script = "#!/bin/sh\nsystemctl disable --now old.service\nkill -9 0\n"
        executable(update / "kernel" / "install.sh", script)
        self.box.run(100, managed=True)
        for _ in range(3):
            self.assertFalse(self.box.is_service("enabled", "old.service"))
            self.box.boot()
        self.assertTrue(self.box.is_service("enabled", "old.service"))
        self.assertFalse(self.box.is_service("enabled", FINISH))
        self.assertIn("was interrupted 3 times", self.box.update_log.read_text())
        self.assertIsNone(self.box.version("current"))

    def test_no_reboot(self) -> None:
        """OPQ_REBOOT is for this run only: the next boot ends an installation with a reboot."""
        self.box.unpack(100)
        self.assertNotIn("Rebooting.", self.box.install(100, managed=True, OPQ_REBOOT="no"))
        self.box.asked()
        self.box.install(100, managed=True, OPQ_REBOOT="no", FINISH_SHELL="true")
        self.box.boot()
        self.assertEqual(self.box.asked()[-1], "reboot")

    def test_configuration_that_cannot_be_used(self) -> None:
        """The release reads the configuration that the agent's unit names before all else."""
        self.box.unpack(100)
        self.box.install(100, managed=True)
        self.box.asked()
        self.box.unpack(200)
        self.box.tool("python", PYTHON.replace("    *)", BAD_CONFIGURATION))
        unit = "{ path=/opt/opq ; argv[]=/opt/opq/agent --config /opt/opq/mine --port 80 ; }\n"
        (self.box.services / "ExecStart").write_text(unit)
        (self.box.prefix / "mine").write_text("{}")
        result = self.box.run(200, managed=True)
        self.assertEqual(result.returncode, 75)
        self.assertEqual(self.box.state(), (100, None, {"100"}))
        self.assertIn("updates_ep is wrong in /opt/opq/mine.\n", result.stderr)
        self.assertIn("cannot use this box's configuration, so nothing was changed", result.stderr)
        self.assertEqual(self.box.version("current"), 100)
        self.assertEqual(self.box.asked(), [])

    def test_another_prefix(self) -> None:
        """Units name the prefix that is used; one that a unit cannot name is refused."""
        self.box.unpack(100)
        self.box.install(100, managed=True, OPQ_PREFIX="/opt/else")
        unit = (self.box.units / "opq-box-agent.service").read_text()
        self.assertIn(f"ExecStart=/opt/else/current/{AGENT}/bin/opq-box-agent --config", unit)
        self.assertNotIn("/opt/opq/", unit)
        rescue = (self.box.units / "opq-box-rescue.service").read_text()
        self.assertIn("\nExecStart=/opt/else/rescue/opq-box-rescue\n", rescue)
        self.assertTrue(os.access(self.box.prefix.parent / "else/rescue/opq-box-rescue", os.X_OK))
        refused = self.box.run(100, managed=True, OPQ_PREFIX="/opt/o p q")
        self.assert_refused(refused, "/opt/o p q")

    def test_component_script(self) -> None:
        """A component's script runs in its installed folder: the release is whole, not yet live."""
        script = self.box.unpack(100) / "kernel" / "install.sh"
        executable(
            script, '#!/bin/sh\ncat ../VERSION; pwd -P; echo "$OPQ_VERSION $OPQ_STATE_DIR"\n'
        )
        said = self.box.install(100, managed=True)
        wanted = "100\n/opt/opq/releases/100/kernel\n100 /var/lib/opq/updater\n"
        self.assertIn(wanted, said)
        self.assertLess(said.index(wanted), said.index("Release 100 is now current."))

    def test_component_script_fails(self) -> None:
        """When a component's script fails, every service runs on and the release in use stays."""
        self.box.unpack(100)
        executable(self.box.unpack(200) / "kernel" / "install.sh", "#!/bin/sh\nexit 3\n")
        self.box.install(100, managed=True)
        self.box.asked()
        result = self.box.run(200, managed=True)
        self.assert_refused(result, "the installation of release 200 failed")
        self.assertIn("kernel/install.sh failed", result.stdout)
        self.assertEqual(self.box.asked(), [*BEGIN_FINISH, END_FINISH])
        self.assertEqual(self.box.version("current"), 100)
        self.assertFalse((self.box.units / FINISH).exists())

    def test_sandbox_of_root(self) -> None:
        """Root too can install in a sandbox: nothing outside the prefix is touched."""
        executable(self.box.unpack(100) / "kernel" / "install.sh", "#!/bin/sh\ntouch /etc/kernel\n")
        (self.box.folder / "opq-box-update-100" / "root.json").write_text("new")
        self.box.install(100, managed=True, OPQ_SYSTEMD="no")
        self.assertEqual(self.box.image(), 100)
        self.assertEqual(self.box.asked(), [])
        self.assertEqual(
            list((self.box.folder / "etc").rglob("*")), [self.box.units.parent, self.box.units]
        )


class RescueTests(InstallCase):
    """How the rescue comes to the box, and what replaces it there."""

    def setUp(self) -> None:
        super().setUp()
        self.box.unpack(100)
        self.drop_in = self.box.units / "opq-box-agent.service.d" / "rescue.conf"
        self.unit = self.box.units / "opq-box-rescue.service"
        self.script = self.box.prefix / "rescue" / "opq-box-rescue"
        self.files = (self.script, self.unit, self.drop_in)

    def place(self, *shell: str, box: RootFolder | None = None, **environment: str) -> Result:
        """Run the live release's `place`, as the agent does when an update has proved itself."""
        box = box or self.box
        return subprocess.run(
            [*namespace(), *shell, f"/opt/opq/current/{AGENT}/rescue/place"],
            env={
                "PATH": f"{box.folder / 'bin'}:{os.environ['PATH']}",
                "BOX": str(box.folder),
                "SYSTEMCTL_LOG": str(box.calls),
                "BASH_ENV": str(box.folder / "killer"),
                "OPQ_PREFIX": "/opt/opq",
                **environment,
            },
            capture_output=True,
            text=True,
            start_new_session=True,
        )

    def assert_shipped(self) -> None:
        for path in self.files:
            shipped = next((SHIPPED / "rescue").rglob(path.name))
            self.assertEqual(path.read_text(), shipped.read_text())
            self.assertEqual(path.stat().st_mode & 0o777, 0o755 if path == self.script else 0o644)
        self.assertEqual([path.name for path in self.script.parent.iterdir()], ["opq-box-rescue"])
        self.assertEqual([path.name for path in self.drop_in.parent.iterdir()], ["rescue.conf"])

    def test_installed(self) -> None:
        """An install puts the rescue in place before the release is live."""
        said = self.box.install(100, managed=True)
        self.assert_shipped()
        self.assertLess(said.index("rescue.conf in place"), said.index("is now current"))

    def test_kept(self) -> None:
        """An update, which has yet to prove itself, replaces nothing; what is missing comes."""
        self.box.install(100, managed=True)
        self.script.write_text("old")
        self.drop_in.write_text("old")
        self.unit.unlink()
        self.box.unpack(200)
        self.box.install(200, managed=True)
        self.assertEqual((self.script.read_text(), self.drop_in.read_text()), ("old", "old"))
        self.assertEqual(
            self.unit.read_text(), (SHIPPED / "rescue" / "opq-box-rescue.service").read_text()
        )

    def test_replaced(self) -> None:
        """One that has proved itself brings its own; done again, that changes nothing."""
        self.box.install(100, managed=True)
        for path in self.files:
            path.write_text("old")
        self.box.asked()
        self.assertEqual(self.place().returncode, 0)
        self.assert_shipped()
        self.assertEqual(self.box.asked(), ["daemon-reload", ENABLED])
        times = [path.stat().st_mtime_ns for path in self.files]
        again = self.place()
        self.assertEqual((again.returncode, again.stdout, again.stderr), (0, "", ""))
        self.assertEqual(self.box.asked(), [])
        self.assertEqual([path.stat().st_mtime_ns for path in self.files], times)

    def test_release_without_a_rescue(self) -> None:
        """A release that has none leaves the one that is there alone."""
        self.box.install(100, managed=True)
        shutil.rmtree(self.box.unpack(200) / AGENT / "rescue")
        self.box.install(200, managed=True)
        self.assert_shipped()

    def test_no_room(self) -> None:
        """Where the rescue cannot be put in place, the release does not become the live one."""
        self.box.tool(
            "chmod", '#!/bin/sh\ncase $2 in */rescue/*) exit 1 ;; esac\nexec /bin/chmod "$@"\n'
        )
        result = self.box.run(100, managed=True)
        self.assertEqual(result.returncode, 1)
        self.assertEqual(self.box.version("current"), None)
        self.assertFalse(self.script.exists())

    def test_interrupted(self) -> None:
        """Each file is the old one or the new one, a unit never older than what it needs."""
        if shutil.which("bash") is None:
            raise lacking("Only bash can stop a script before each command.")
        self.box.install(100, managed=True)
        for path in self.files:
            path.write_text("old")
        # As the rescue of a release was that had no timer yet.
        (self.box.units / "timers.target.wants" / "opq-box-rescue.timer").unlink()
        found = set()
        for count in range(1, 200, stride(5)):
            box = self.box.copy(self.box.folder.parent / str(count))
            result = self.place("bash", box=box, KILL_AT=str(count))
            files = [box.folder / path.relative_to(self.box.folder) for path in self.files]
            old = tuple(path.read_text() == "old" for path in files)
            found.add(old)
            if result.returncode == 0:
                break
            self.assertEqual(result.returncode, -signal.SIGKILL, result)
            self.assertEqual(self.place(box=box).returncode, 0)
            self.assertTrue(box.is_timer_enabled)
            for path, shipped in zip(files, self.files, strict=True):
                source = next((SHIPPED / "rescue").rglob(shipped.name))
                self.assertEqual(path.read_text(), source.read_text())
            shutil.rmtree(box.folder)
        in_order = {
            (True, True, True),
            (False, True, True),
            (False, False, True),
            (False, False, False),
        }
        self.assertEqual(found, in_order if TORTURE else found & in_order)


class InterruptedTests(InstallCase):
    """The script killed before each of its commands, and then run again."""

    def setUp(self) -> None:
        super().setUp()
        if shutil.which("bash") is None:
            raise lacking("Only bash can stop a script before each command.")
        service(self.box.unpack(100), "triggering", "opq-triggering.service")
        service(self.box.unpack(200), "triggering", "opq-old.service")
        service(self.box.unpack(300), "triggering", "opq-triggering.service")
        executable(self.box.folder / "opq-box-update-300" / "kernel" / "install.sh", "#!/bin/sh\n")

    def interruptions(self, run: Callable[[RootFolder, str], Result]) -> Iterator[RootFolder]:
        """Yield a copy of the box for every n-th command at which a script is killed."""
        for count in range(1, 1000, stride(31)):
            box = self.box.copy(self.box.folder.parent / str(count))
            result = run(box, str(count))
            if result.returncode == 0:
                # Fewer would mean that the killing does not work.
                self.assertGreater(count, 60)
                return
            self.assertIn(result.returncode, (-signal.SIGKILL, 128 + signal.SIGKILL), result)
            yield box
            shutil.rmtree(box.folder)
        self.fail("The script has no end.")

    def check(
        self, version: int, allowed: Callable[[int | None, int | None], bool], *, image: int
    ) -> None:
        """
        Assert that links are right after each interruption, and all is after one more run.

        The image's version is on record before the release is live, and is never another one.
        """
        before = self.box.version("current")
        for box in self.interruptions(lambda box, at: box.run(version, "bash", KILL_AT=at)):
            links = box.version("current"), box.version("previous")
            self.assertTrue(allowed(*links), links)
            recorded = {image} if version in links[:1] else {image, self.box.image()}
            self.assertIn(box.image(), recorded)
            box.install(version)
            kept = {str(version), str(before)} - {"None"}
            self.assertEqual(box.state(), (version, before, kept))
            self.assertEqual(box.image(), image)

    def test_first_install(self) -> None:
        """A fresh box has no release or a whole one."""
        self.check(
            100, lambda current, previous: current in (None, 100) and previous is None, image=100
        )

    def test_update(self) -> None:
        """The box has the old release or the new one, and knows the one before it."""
        self.box.install(100)
        self.box.install(200)
        self.check(300, lambda *links: links in ((200, 100), (300, 200)), image=100)

    def test_update_of_an_older_box(self) -> None:
        """A box that had no image's version on record has what was live before, in any case."""
        self.box.install(100)
        self.box.install(200)
        self.box.image_file.unlink()
        self.check(300, lambda *links: links in ((200, 100), (300, 200)), image=200)

    def test_return(self) -> None:
        """Returning may cost the release that is returned to, until it is live; never the other."""
        self.box.install(100)
        self.box.install(200)
        self.check(100, lambda *links: links in ((200, 100), (200, None), (100, 200)), image=100)

    def test_reinstall(self) -> None:
        """Installing the current release again changes nothing at any time."""
        self.box.install(100)
        self.box.install(200)
        for box in self.interruptions(lambda box, at: box.run(200, "bash", KILL_AT=at)):
            self.assertEqual(box.state(), (200, 100, {"100", "200"}))
            box.install(200)
            self.assertEqual(box.state(), (200, 100, {"100", "200"}))

    def test_power_cut(self) -> None:
        """
        The next boot ends an installation, even if a component has disabled the older daemon.

        The root is whole if there is one, and no release that brings one is live without it.
        """
        self.box.install(100, managed=True)
        self.box.install(200, managed=True)
        self.box.older_daemon()
        update = self.box.folder / "opq-box-update-300"
        (update / "root.json").write_text("new")
        executable(
            update / "kernel" / "install.sh",
            "#!/bin/sh\nexec systemctl disable --now old.service\n",
        )
        # The caller has built the release, and the power goes.
        self.box.install(300, managed=True, FINISH_SHELL="true")
        units = {"opq-box-agent.service", "opq-triggering.service", "old.service", *RESCUE_UNITS}
        for box in self.interruptions(lambda box, at: box.boot(FINISH_SHELL="bash", KILL_AT=at)):
            links = box.version("current"), box.version("previous")
            self.assertIn(links, ((200, 100), (300, 200)))
            if box.version("current") == 300 or box.root.exists():
                self.assertEqual(box.root.read_text(), "new")
            if box.is_service("enabled", FINISH):
                box.boot()
                self.assertEqual(box.asked()[-1], "reboot")
            self.assertEqual(box.root.read_text(), "new")
            self.assertEqual(box.state(), (300, 200, {"200", "300"}))
            self.assertFalse(box.is_service("enabled", "old.service"))
            self.assertTrue(box.is_service("enabled", "opq-box-agent.service"))
            self.assertFalse(box.is_service("enabled", FINISH))
            self.assertEqual({path.name for path in box.units.iterdir()} - {FINISH}, units)
