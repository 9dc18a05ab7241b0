"""Makes good and bad releases, and signs them."""

import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from opq_twisted.archive.extract.unpack import unpack
from opq_twisted.archive.name import UpdateName
from tests.vm.cache import ROOT
from tests.vm.report import must

#: A component beside the agent: the daemon of the manual, with a unit and a Python package.
COMPONENT = "mysensor"
DAEMON = ROOT / "examples" / COMPONENT

#: A change of an unpacked release.
Change = Callable[[Path], None]


@frozen
class Keys:
    """The keys to the releases, in a folder with the root that boxes trust."""

    folder: Path

    @property
    def root(self) -> Path:
        """The root that a box trusts."""
        return self.folder / "root.json"

    @property
    def passphrase(self) -> Path:
        """The file with the passphrase of each key."""
        return self.folder / "passphrase"

    @property
    def timestamp(self) -> Path:
        """The timestamp's key, for the update server."""
        [path] = (self.folder / "keys").glob("timestamp-*.pem")
        return path

    @property
    def updates(self) -> Path:
        """The updates directory, with the metadata."""
        return self.folder / "updates"

    def make(self) -> None:
        """Make the keys and the first root."""
        self.updates.mkdir(parents=True)
        self.passphrase.touch(mode=0o600)
        self.passphrase.write_text(f"{secrets.token_hex()}\n")
        self._release("init")
        shutil.copy(self.updates / "tuf" / "1.root.json", self.root)

    def publish(self, archive: Path) -> None:
        """Publish a release."""
        self._release("publish", os.fspath(archive))

    def _release(self, command: str, *arguments: str) -> None:
        program = os.fspath(Path(sys.executable).with_name("opq-release"))
        options = [
            f"--updates-dir={self.updates}",
            f"--keys-dir={self.folder / 'keys'}",
            f"--passphrase-file={self.passphrase}",
        ]
        run([program, command, *options, *arguments])


def build(version: int, folder: Path, root: Path, daemon: Path = DAEMON) -> Path:
    """Build a good release of this project, with its Python packages and a second component."""
    builder = os.fspath(ROOT / "build_update.py")
    run(
        [
            *(sys.executable, builder, f"--version={version}", f"--output-dir={folder}"),
            *(f"--trusted-root={root}", f"--component={COMPONENT}={daemon}"),
        ]
    )
    return folder / str(UpdateName(version))


def altered(archive: Path, version: int, folder: Path, change: Change) -> Path:
    """
    Make another release: unpack one, change it, and pack it again.

    It is packed by tar, because the builder refuses some bad releases.
    """
    name = UpdateName(version)
    with tempfile.TemporaryDirectory(prefix="opq-vm-release-", dir=folder) as scratch:
        unpacked = Path(scratch, name.folder)
        unpack(archive, unpacked, UpdateName.parse(archive.name).version)
        (unpacked / "VERSION").write_text(f"{version}\n")
        change(unpacked)
        with tarfile.open(folder / str(name), "w:bz2", format=tarfile.GNU_FORMAT) as tar:
            tar.add(unpacked, name.folder)
    return folder / str(name)


def run(command: list[str], folder: Path | None = None, path: str = os.environ["PATH"]) -> str:
    """
    Run a program; returns its output, including the errors.

    :raises Broken: if it fails.
    """
    ended = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    ending = f"ended with {ended.returncode}:\n{ended.stdout[-3000:]}"
    must(ended.returncode == 0, f"{shlex.join(command)[-300:]} {ending}")
    return ended.stdout
