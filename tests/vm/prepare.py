"""Sets up a box once, as its owner would, as the start of all scenarios."""

import datetime
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from opq_twisted.archive.name import UpdateName
from tests.vm import cache
from tests.vm.box import BOOT, PREFIX, STATE, Prepared, configuration, free_port
from tests.vm.guest import Shell
from tests.vm.image import Image, image
from tests.vm.machine import PAGE, Machine
from tests.vm.needs import find
from tests.vm.releases import DAEMON, Keys, build
from tests.vm.report import Broken

HERE = Path(__file__).parent

#: The sources of a release and of its installation.
_SOURCES = (
    *(cache.ROOT / "opq_twisted", cache.ROOT / "deploy" / "box", cache.ROOT / "twisted", DAEMON),
)
_FILES = (
    *(cache.ROOT / "build_update.py", *cache.ROOT.glob("requirements*")),
    *(HERE / name for name in ("prepare.py", "releases.py")),
)

#: Seconds between the releases' versions.
_DAY = 86400

_FIRST_INSTALL = 900.0


def prepare(folder: Path) -> Prepared:
    """Build the image and the releases, and install the first one, unless that has been done."""
    built = image(folder)
    made_from = cache.key(
        # Signatures expire, so they are made again each day.
        *(str(built.folder.absolute()), f"{datetime.date.today()}"),
        files=[*_FILES, *cache.files_below(*_SOURCES)],
    )
    home = cache.kept(folder, "box", made_from, lambda draft: _make(built, draft))
    old, new = sorted(home.glob("*.tar.bz2"))
    return Prepared(built, home / "disk.qcow2", Keys(home / "keys"), old, new)


def _make(image: Image, folder: Path) -> None:
    keys = Keys(folder / "keys")
    keys.make()
    # Each test makes newer releases, and a box refuses releases of the future.
    new = int(time.time()) - _DAY
    old = build(new - _DAY, folder, keys.root)
    with tempfile.TemporaryDirectory(prefix="daemon-", dir=folder) as scratch:
        changed = Path(shutil.copytree(DAEMON, Path(scratch) / DAEMON.name))
        (changed / "NEWS").write_text("This release is better.\n")
        build(new, folder, keys.root, changed)
    with tempfile.TemporaryDirectory(prefix="medium-", dir=folder) as scratch:
        medium = _medium(Path(scratch), old)
        _install(image, folder, medium, new - _DAY)


def _medium(scratch: Path, archive: Path) -> Path:
    """Make the disk for the setup of a box: the archive and the configuration."""
    content = scratch / "content"
    content.mkdir()
    (content / archive.name).hardlink_to(archive)
    (content / "opqbox_config.json").write_text(configuration(server_port=9))
    medium = scratch / "medium.ext4"
    mke2fs = find("mke2fs") or "mke2fs"
    size = (archive.stat().st_size >> 20) + 16
    command = [mke2fs, "-q", "-t", "ext4", "-d", str(content), str(medium), f"{size}M"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return medium


def _install(image: Image, folder: Path, medium: Path, version: int) -> None:
    """Boot for the first time, install, reboot, and switch off when the agent is up."""
    with Machine(image, image.disk, folder, free_port()) as machine:
        machine.boot(wants="opq-vm-install.service", medium=medium)
        machine.says(r"Rebooting\.", _FIRST_INSTALL)
        machine.says(rf"The page is at http://\S+:{PAGE}\.", BOOT)
        shell = Shell(machine.shell_socket)
        shell.ready(BOOT)
        installed = shell.run(f"cat {PREFIX}/current/VERSION").strip()
        if installed != str(version):
            raise Broken(f"The first install left release {installed}, not {version}.")
        # The box can return to the release that it was set up from.
        good = shell.run(f"readlink {STATE}/archives/last-good").strip()
        if good != str(UpdateName(version)):
            raise Broken(f"After the first install the box returns to {good!r}.")
        shell.run("systemctl --no-block poweroff")
        shell.close()
        machine.wait_off(BOOT)
