"""The command `build_update.py`: the update, the output, and the files that it leaves."""

import contextlib
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.extract.unpack import unpack
from tests.helpers.privileges import lacking, tool
from tests.helpers.project import PROJECT

BUILDER = PROJECT / "build_update.py"
AGENT = "box-configuration-daemon"
Result = subprocess.CompletedProcess[str]


class BuilderTest(SynchronousTestCase):
    """A folder to build in and a small component."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).resolve()
        self.output = self.folder / "output"
        self.output.mkdir(parents=True)
        self.kernel = self.folder / "kernel"
        self.kernel.mkdir()
        (self.kernel / "image").write_bytes(Random(0).randbytes(1_000_000))
        self.script = self.folder / "install.sh"
        self.script.write_text("#!/bin/sh\necho installing $(cat VERSION)\n")
        self.environment = os.environ.copy()
        # trial's workers have a PYTHONPATH, which would bring packages to any Python.
        for name in ("SOURCE_DATE_EPOCH", "PYTHONPATH"):
            self.environment.pop(name, None)

    def command(self, *arguments: str | Path, python: str = sys.executable) -> list[str]:
        return [python, str(BUILDER), *map(str, arguments)]

    def run_builder(
        self,
        *arguments: str | Path,
        python: str = sys.executable,
        through: Sequence[str] = (),
    ) -> Result:
        """Run the builder, or a program that runs it with fewer rights."""
        return subprocess.run(
            [*through, *self.command(*arguments, python=python)],
            cwd=self.output,
            env=self.environment,
            capture_output=True,
            text=True,
        )

    def build(self, *arguments: str | Path) -> Path:
        """Build a small update and return its path, which is the only output."""
        result = self.run_builder("--no-wheels", *arguments)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        return self.output / result.stdout.removesuffix("\n")

    def assert_refused(self, result: Result, *words: str) -> None:
        """The builder prints one sentence with these words, exits with 1, and leaves no files."""
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertRegex(result.stderr, r"\A[^\n]+\.\n\Z")
        for word in words:
            self.assertIn(word, result.stderr)
        self.assertEqual(self.left(), [])

    def root(self, expires: datetime) -> Path:
        """Write a root as the tools of the key holders do."""
        signer = CryptoSigner.generate_ed25519()
        root = Root(expires=expires)
        for role in root.roles:
            root.add_key(signer.public_key, role)
        metadata = Metadata(root)
        metadata.sign(signer)
        path = self.folder / "1.root.json"
        metadata.to_file(str(path))
        return path

    def left(self) -> list[str]:
        return [path.name for path in self.output.iterdir()]


class TestWhatIsBuilt(BuilderTest):
    """The archive."""

    def test_own_box_sources(self) -> None:
        """Without arguments the update contains the script and this project's own box sources."""
        names = tar_names(self.build("--version", "1547860803"))
        top = "opq-box-update-files"
        head = ["", "VERSION", "install_update.sh", f"{AGENT}/"]
        self.assertEqual(names[:4], [f"{top}/{name}" for name in head])
        code = PROJECT / "opq_twisted" / "box"
        shipped = {
            *(f"opq_twisted/box/{path.relative_to(code)}" for path in code.rglob("*.py")),
            *(
                "opq_twisted/common/errors.py",
                "opq_twisted/py.typed",
                "opq_twisted/archive/name.py",
            ),
            "opq_twisted/box/install/preflight.sh",
            *("requirements.txt", "twisted/plugins/opq_box_agent.py"),
            *("bin/opq-box-agent", "systemd/opq-box-agent.service", "opqbox_config.json"),
            *("rescue/opq-box-rescue", "rescue/opq-box-rescue.service", "rescue/place"),
            "rescue/opq-box-agent.service.d/rescue.conf",
        }
        self.assertEqual({f"{top}/{AGENT}/{name}" for name in shipped} - set(names), set())
        unwanted = (
            "/server/",
            "/signing/",
            "/archive/build/",
            "/cli/release/",
            "__pycache__",
            f"{AGENT}/install_update.sh",
            "dropin.cache",
        )
        self.assertEqual([n for n in names if any(word in n for word in unwanted)], [])

    def test_bill_of_materials(self) -> None:
        """An SBOM is beside the update, unless the package that writes it is not installed."""
        self.build("--version", "1547860803")
        name = "opq-box-update-1547860803"
        self.assertEqual(set(self.left()), {f"{name}.tar.bz2", f"{name}.cdx.json"})
        without = self.folder / "without"
        without.mkdir()
        (without / "cyclonedx.py").write_text("raise ModuleNotFoundError(name='cyclonedx')\n")
        self.environment["PYTHONPATH"] = str(without)
        result = self.run_builder("--no-wheels", "--version", "1547860804")
        self.assertEqual(result.returncode, 0)
        self.assertIn("cyclonedx-python-lib", result.stderr)
        self.assertNotIn("opq-box-update-1547860804.cdx.json", self.left())

    def test_components(self) -> None:
        """Each component is a folder, in the order of the layout; an agent replaces our own."""
        given = ("mysensor", "firmware", "kernel", "camera", AGENT)
        options = [f"--component={name}={self.kernel}" for name in given]
        names = tar_names(self.build("--version", "7", *options))
        top = "opq-box-update-files"
        folders = [f"{top}/{name}/" for name in (AGENT, "kernel", "firmware", "camera", "mysensor")]
        files = [f"{folder}image" for folder in folders]
        inside = [name for pair in zip(folders, files, strict=True) for name in pair]
        self.assertEqual(names[3:], inside)

    def test_version_is_now(self) -> None:
        """The version is the time of the build, in seconds since the epoch."""
        before = int(time.time())
        name = self.build().name
        version = int(name.removeprefix("opq-box-update-").removesuffix(".tar.bz2"))
        self.assertTrue(before <= version <= time.time())

    def test_source_date_epoch(self) -> None:
        """SOURCE_DATE_EPOCH is the default version, and nothing else."""
        self.environment["SOURCE_DATE_EPOCH"] = "1000"
        self.assertEqual(self.build().name, "opq-box-update-1000.tar.bz2")
        archive = self.build("--version", "2000")
        del self.environment["SOURCE_DATE_EPOCH"]
        first = archive.rename(self.folder / "first")
        self.assertEqual(first.read_bytes(), self.build("--version", "2000").read_bytes())

    def test_reproducible(self) -> None:
        """Two builds of one version are the same byte for byte, also without other programs."""
        component = f"--component=kernel={self.kernel}"
        first = self.build("--version", "7", component).rename(self.folder / "first")
        os.utime(self.kernel / "image", (1, 1))
        (self.kernel / "image").chmod(0o600)
        self.environment["PATH"] = "/nonexistent"
        second = self.build("--version", "7", component)
        self.assertEqual(first.read_bytes(), second.read_bytes())

    def test_folder_with_version(self) -> None:
        """For agents up to 0.2.0, all members are in a folder that is named after the version."""
        archive = self.build("--version", "7", "--folder-with-version")
        names = tar_names(archive)
        # Their rule: the first step of each path is exactly this; anything else is no such folder.
        self.assertEqual({name.split("/")[0] for name in names}, {"opq-box-update-7"})
        self.assertEqual(names[:2], ["opq-box-update-7/", "opq-box-update-7/VERSION"])
        unpack(archive, self.folder / "unpacked", 7, reserve=0)

    def test_trusted_root(self) -> None:
        """The trusted root is beside the script, unchanged, whatever its file's name and mode."""
        root = self.root(datetime.now(UTC).replace(microsecond=0) + timedelta(days=1))
        root.chmod(0o755)
        archive = self.build("--version", "7", "--trusted-root", root)
        names = tar_names(archive)
        head = ["", "VERSION", "install_update.sh", "root.json", f"{AGENT}/"]
        self.assertEqual(names[:5], [f"opq-box-update-files/{name}" for name in head])
        with tarfile.open(archive) as tar:
            self.assertEqual(tar.getmember("opq-box-update-files/root.json").mode, 0o644)
        unpack(archive, self.folder / "unpacked", 7, reserve=0)
        unpacked = self.folder / "unpacked" / "root.json"
        self.assertEqual(unpacked.read_bytes(), root.read_bytes())
        first = archive.rename(self.folder / "first")
        os.utime(root, (1, 1))
        root.chmod(0o600)
        second = self.build("--version", "7", "--trusted-root", root)
        self.assertEqual(first.read_bytes(), second.read_bytes())

    def test_optional(self) -> None:
        """An update contains a root and a verify script only if the options name them."""
        names = tar_names(self.build("--version", "7"))
        for name in ("root.json", "verify_update.sh"):
            self.assertNotIn(f"opq-box-update-files/{name}", names)

    def test_verify_script(self) -> None:
        """The verify script is executable in the update."""
        self.script.chmod(0o644)
        archive = self.build("--version", "7", "--verify-script", self.script)
        unpack(archive, self.folder / "unpacked", 7, reserve=0)
        unpacked = self.folder / "unpacked" / "verify_update.sh"
        self.assertEqual(unpacked.read_bytes(), self.script.read_bytes())
        self.assertEqual(unpacked.stat().st_mode & 0o777, 0o755)

    def test_an_older_box_installs_it(self) -> None:
        """The older updater's shell script can unpack the archive."""
        archive = self.build("--version", "7", "--install-script", self.script)
        steps = f"tar xf {archive.name} && cd opq-box-update-*/ && ./install_update.sh"
        result = subprocess.run(
            ["sh", "-c", steps], cwd=self.output, capture_output=True, text=True
        )
        self.assertEqual((result.stdout, result.stderr), ("installing 7\n", ""))

    def test_a_box_unpacks_it(self) -> None:
        """The agent's unpacker accepts the archive."""
        archive = self.build("--version", "7", f"--component=kernel={self.kernel}")
        unpack(archive, self.folder / "unpacked", 7, reserve=0)
        image = self.folder / "unpacked" / "kernel" / "image"
        self.assertEqual(image.read_bytes(), (self.kernel / "image").read_bytes())

    def test_bare_python(self) -> None:
        """The builder needs Python 3.11 or newer, and no packages."""
        python = "/usr/bin/python3"
        new_enough = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if not os.path.exists(python) or subprocess.run(new_enough).returncode != 0:
            raise lacking("needs /usr/bin/python3 to be 3.11 or newer")
        root = self.root(datetime.now(UTC).replace(microsecond=0) + timedelta(days=1))
        command = [python, "-S", str(BUILDER), "--no-wheels", "--version=7"]
        command.append(f"--trusted-root={root}")
        # The modules of the Python that runs the tests are of no use to another one.
        env = {"PATH": os.environ["PATH"]}
        ended = subprocess.run(command, cwd=self.output, env=env, capture_output=True, text=True)
        self.assertEqual(ended.returncode, 0, ended.stderr)
        self.assertEqual(self.left(), ["opq-box-update-7.tar.bz2"])

    def test_progress(self) -> None:
        """A terminal shows the progress of the build."""
        reader, terminal = pty.openpty()
        self.addCleanup(os.close, reader)
        command = self.command("--no-wheels", "--version", "7")
        build = subprocess.Popen(
            command, cwd=self.output, stdout=subprocess.DEVNULL, stderr=terminal
        )
        os.close(terminal)
        said = b""
        # One read gives at most 4 kB, and the end is an error (EIO).
        with contextlib.suppress(OSError):
            while some := os.read(reader, 4096):
                said += some
        self.assertEqual(build.wait(), 0, said)
        self.assertIn(b"100 %", said)

    def test_help(self) -> None:
        """The help names every option."""
        text = self.run_builder("--help").stdout
        options = ("--component", "--output-dir", "--version", "--install-script", "--no-wheels")
        for option in (
            *options,
            "--verify-script",
            "--trusted-root",
            "--platform",
            "--python-version",
            "SOURCE_DATE_EPOCH",
        ):
            self.assertIn(option, text)


class TestWheels(BuilderTest):
    """The Python packages in an update."""

    def test_complete_offline(self) -> None:
        """
        The update's own script installs its wheels without a network, and twistd finds the agent.

        An environment that was moved finds it, too.
        """
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        probe = subprocess.run([*pip, f"--dest={self.folder}", "attrs"], capture_output=True)
        if probe.returncode != 0:
            raise lacking("needs an index that pip can download from")
        result = self.run_builder("--version", "7")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        unpacked = self.folder / "unpacked"
        unpack(self.output / result.stdout.strip(), unpacked, 7, reserve=0)
        prefix = self.folder / "opq"
        # Whoever uses the network nevertheless finds nothing there.
        nowhere = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https")}
        environment = {"PATH": os.environ["PATH"], "PIP_CONFIG_FILE": os.devnull, **nowhere}
        box = {"OPQ_PREFIX": str(prefix), "OPQ_SYSTEMD": "no", "OPQ_PYTHON": sys.executable}
        run = partial(subprocess.run, capture_output=True, text=True, cwd="/")
        installed = run([unpacked / "install_update.sh"], env=environment | box)
        self.assertEqual(installed.returncode, 0, installed)
        release = prefix / "current"
        self.assertTrue((release / AGENT / "twisted" / "plugins" / "dropin.cache").exists())
        started = run([release / AGENT / "bin" / "opq-box-agent", "--help"], env=environment)
        self.assertIn("Usage: opq-box-agent [options]", started.stdout)
        imports = "import attrs, cattrs, treq, twisted.internet.ssl"
        imported = run([release / "venv" / "bin" / "python", "-c", imports], env=environment)
        self.assertEqual(imported.returncode, 0, imported.stderr)
        moved = prefix.rename(self.folder / "moved") / "current" / "venv" / "bin"
        listing = run([moved / "python", moved / "twistd", "--help"], env=environment)
        self.assertIn("Keep an OPQ box up to date.", listing.stdout)

    def test_no_such_package(self) -> None:
        """The error of pip is printed, with a remedy."""
        locked = f"no-such-package==1 --hash=sha256:{'0' * 64}\n"
        (self.kernel / "requirements.txt").write_text(locked)
        self.environment |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
        self.environment["PIP_FIND_LINKS"] = str(self.folder)
        result = self.run_builder(f"--component={AGENT}={self.kernel}")
        self.assert_refused(result, "no wheel of no-such-package==1", "the network", "--no-wheels")

    def test_no_pip(self) -> None:
        """A Python without pip has an error of its own."""
        venv = self.folder / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
        result = self.run_builder(python=str(venv / "bin" / "python"))
        self.assert_refused(result, "No module named pip", "--no-wheels")

    def test_no_requirements(self) -> None:
        """Another agent without a requirements.txt is refused."""
        result = self.run_builder(f"--component={AGENT}={self.kernel}")
        self.assert_refused(result, "requirements.txt", "--no-wheels")


class TestErrors(BuilderTest):
    """Mistakes of users."""

    def test_sentences(self) -> None:
        """Each mistake has a sentence."""
        plain = self.folder / "plain"
        plain.write_text("echo hello\n")
        mistakes: list[tuple[list[str], tuple[str, ...]]] = [
            (["--component=kernel=gone"], ("gone",)),
            (["--component=kernel"], ("NAME=DIR", "mysensor")),
            ([f"--component=wheels={self.kernel}"], ("wheels", "choose another one")),
            ([f"--component=kernel={self.kernel}"] * 2, ("kernel", "twice")),
            (["--version=yesterday"], ("yesterday", "seconds since the epoch")),
            (["--version=0"], ("'0'",)),
            (["--version=99999999999"], ("99999999999", "lies in the future", "5138-11-16 09:46")),
            (["--output-dir=gone"], ("gone", "make it first")),
            (["--install-script=gone"], ("gone", "No such file")),
            ([f"--install-script={plain}"], ("plain", "#!")),
            ([f"--verify-script={plain}"], ("plain", "#!")),
        ]
        for arguments, words in mistakes:
            self.assert_refused(self.run_builder("--no-wheels", *arguments), *words)
        self.environment["SOURCE_DATE_EPOCH"] = "99999999999"
        self.assert_refused(self.run_builder("--no-wheels"), "lies in the future")

    def test_trusted_root(self) -> None:
        """A root that no box can use is refused before packages are fetched."""
        timestamp = self.folder / "timestamp.json"
        timestamp.write_text(json.dumps({"signed": {"_type": "timestamp"}, "signatures": []}))
        expired = self.root(datetime(2020, 2, 29, 12, 30, tzinfo=UTC))
        mistakes: list[tuple[Path, tuple[str, ...]]] = [
            (self.folder / "gone", ("gone", "No such file")),
            (self.folder, ("not a regular file",)),
            (self.script, ("install.sh", "not JSON", "give the newest root.json")),
            (timestamp, ("timestamp.json", 'its signed._type is "timestamp", not "root"')),
            (expired, ("1.root.json expired on 2020-02-29 at 12:30 UTC", "renew")),
        ]
        for root, words in mistakes:
            self.assert_refused(self.run_builder("--trusted-root", root), *words)

    def test_source_date_epoch(self) -> None:
        """A SOURCE_DATE_EPOCH that is not a number is refused."""
        self.environment["SOURCE_DATE_EPOCH"] = "noon"
        self.assert_refused(self.run_builder("--no-wheels"), "SOURCE_DATE_EPOCH", "noon")

    def test_name_taken(self) -> None:
        """A name that is taken is refused before any work is done."""
        archive = self.build("--version", "7")
        before = archive.read_bytes()
        result = self.run_builder("--version", "7", "--component=kernel=gone")
        self.assertEqual(result.returncode, 1)
        self.assertIn("already there", result.stderr)
        self.assertEqual(archive.read_bytes(), before)

    def test_limit_on_file_size(self) -> None:
        """An archive that cannot be written completely has a sentence."""
        limited = [tool("prlimit"), "--fsize=100000"]
        component = f"--component=kernel={self.kernel}"
        result = self.run_builder("--no-wheels", "--version=7", component, through=limited)
        self.assert_refused(result, "could not be written (File too large)")

    def test_without_permission(self) -> None:
        """An unreadable file and an unwritable folder have a sentence each."""
        obeying: list[str] = []
        if os.geteuid() == 0:
            obeying = [tool("setpriv"), "--bounding-set=-dac_override,-dac_read_search"]
        (self.kernel / "image").chmod(0)
        component = f"--component=kernel={self.kernel}"
        result = self.run_builder("--no-wheels", "--version=7", component, through=obeying)
        self.assert_refused(result, "kernel/image", "Permission denied")
        self.output.chmod(0o500)
        self.addCleanup(self.output.chmod, 0o700)
        result = self.run_builder("--no-wheels", "--version=7", through=obeying)
        self.assert_refused(result, "may not write")


class TestNobodyListens(BuilderTest):
    """A builder that cannot print to standard output builds nevertheless, and reports it."""

    def assert_built(self, version: int, redirection: str) -> str:
        """Build through a shell; returns the builder's standard error."""
        # With it Python has no buffer that it could fail to write when it exits.
        self.environment.pop("PYTHONUNBUFFERED", None)
        command = shlex.join(self.command("--no-wheels", f"--version={version}"))
        result = subprocess.run(
            ["bash", "-c", f"{command} {redirection}"],
            cwd=self.output,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        self.assertIn(f"opq-box-update-{version}.tar.bz2", self.left())
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertNotIn("Traceback", result.stderr)
        self.assertNotIn("not built", result.stderr)
        (self.output / f"opq-box-update-{version}.tar.bz2").unlink()
        return result.stderr

    def test_full(self) -> None:
        """Standard output is full."""
        said = self.assert_built(7, ">/dev/full")
        self.assertIn("No space left on device", said)
        self.assertIn("The update was built: opq-box-update-7.tar.bz2", said)

    def test_no_reader(self) -> None:
        """Standard output is closed, or its reader has ended."""
        for redirection in (">&-", "> >(exec <&-; wait)"):
            self.assertIn("The update was built", self.assert_built(7, redirection))

    def test_errors_go_nowhere(self) -> None:
        """Standard error is closed or full."""
        self.assertEqual(self.assert_built(7, "2>&-"), "")
        self.assertEqual(self.assert_built(7, ">/dev/full 2>/dev/full"), "")

    def test_other_letters(self) -> None:
        """The terminal's encoding lacks characters of the path."""
        self.environment["PYTHONIOENCODING"] = "ascii"
        folder = self.folder / "straße"
        folder.mkdir()
        result = self.run_builder("--no-wheels", "--version=7", f"--output-dir={folder}")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertIn("stra\\xdfe/opq-box-update-7", result.stdout)


class TestStoppedHalfWay(BuilderTest):
    """A builder that a signal ends while it compresses."""

    def start(self) -> "subprocess.Popen[bytes]":
        """Start a builder, and return when it has begun with work for many seconds."""
        with (self.kernel / "large").open("wb") as file:
            file.truncate(1 << 30)
        reader, terminal = pty.openpty()
        self.addCleanup(os.close, reader)
        builder = subprocess.Popen(
            self.command("--no-wheels", "--version=7", f"--component=kernel={self.kernel}"),
            cwd=self.output,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=terminal,
        )
        self.addCleanup(builder.kill)
        os.close(terminal)
        self.assertIn(b"%", os.read(reader, 1000))
        return builder

    def assert_leaves_nothing(self, number: signal.Signals) -> None:
        with self.start() as builder:
            builder.send_signal(number)
            self.assertEqual(builder.wait(), 128 + number)
        self.assertEqual(self.left(), [])

    def test_terminated(self) -> None:
        """SIGTERM leaves no files, and gives its exit code."""
        self.assert_leaves_nothing(signal.SIGTERM)

    def test_interrupted(self) -> None:
        """Ctrl-C leaves no files, and gives its exit code."""
        self.assert_leaves_nothing(signal.SIGINT)

    def test_killed(self) -> None:
        """SIGKILL leaves no file with the final name, and the next build works."""
        with self.start() as builder:
            builder.kill()
        self.assertEqual([name for name in self.left() if not name.startswith(".")], [])
        self.assertTrue(self.build("--version", "7").exists())


def tar_names(archive: Path) -> list[str]:
    """List an archive with the machine's own tar."""
    listing = subprocess.run(["tar", "tjf", archive], capture_output=True, text=True, check=True)
    return listing.stdout.splitlines()
