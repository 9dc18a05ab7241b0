"""Checks the invariants of a box, which must hold after every scenario."""

import hashlib
import json
import re
import tarfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from tests.vm.box import AT_REST, PREFIX, STATE, VmBox
from tests.vm.releases import COMPONENT
from tests.vm.report import Broken

#: The units of every release here.
_UNITS = ("opq-box-agent.service", f"{COMPONENT}.service")

#: The names of complete archives.
_ANY_NAME = "opq-box-update-*.tar.bz2"

#: Log lines of unexpected failures.
_FAILURE = re.compile(r"opq-box-agent\[\d+\]: \S+ \[.*#critical\] (.*)")

_ERROR = re.compile(r"opq-box-agent\[\d+\]: \S+ \[.*#(?:error|critical)\] (.*)")

_FOLDERS = ("box-configuration-daemon", COMPONENT)

#: Compares each file that pip has installed with what pip wrote down about it, and looks whether
#: Python's caches are such, as a file is empty or all zeros that a power cut has left unwritten.
_PACKAGES = """
import base64, csv, hashlib, importlib.util, pathlib, sys
wrong = []
for folder in sys.argv[1:]:
    records = list(pathlib.Path(folder).glob("venv/lib/python*/site-packages/*.dist-info/RECORD"))
    if not records:
        wrong.append(f"there are no packages in {folder}")
    for record in records:
        for name, promised, _ in csv.reader(record.read_text().splitlines()):
            file = record.parent.parent / name
            if not file.is_file():
                wrong.append(f"{file} is missing")
            elif promised:
                algorithm, _, value = promised.partition("=")
                digest = hashlib.new(algorithm, file.read_bytes()).digest()
                if base64.urlsafe_b64encode(digest).decode().rstrip("=") != value:
                    wrong.append(f"{file} is not what was installed")
            elif file.suffix == ".pyc" and file.read_bytes()[:4] != importlib.util.MAGIC_NUMBER:
                wrong.append(f"{file} is no cache")
sys.exit("; ".join(wrong[:5]) if wrong else 0)
"""


def whole(box: VmBox, archives: Mapping[int, Path]) -> int:
    """
    Check a box at rest.

    :param archives: all releases that the box may have, by version.
    :returns: the running release.
    :raises Broken: if an invariant does not hold; the text says which.
    """
    status = box.status()
    version = _live_release(box)
    if version not in archives:
        raise Broken(f"The box runs release {version}, which nobody gave it.")
    if status["installed"] != version:
        raise Broken(f"The page says {status['installed']}, and current is {version}.")
    _release_is_whole(box, version, archives[version])
    _services_are_up(box)
    _state_is_whole(box, version, archives)
    if "EXT4-fs error" in box.machine.console:
        raise Broken("The file system is damaged; see the console.")
    if failure := _FAILURE.search(box.machine.console):
        raise Broken(f"The agent's log has a failure: {failure[1]}")
    return version


def untroubled(box: VmBox) -> None:
    """Check that the agent has logged no error."""
    if error := _ERROR.search(box.machine.console):
        raise Broken(f"The agent's log has an error: {error[1]}")


def journal(box: VmBox) -> dict[str, Any]:
    """Read the agent's journal."""
    text = box.shell.run(f"cat {STATE}/journal.json")
    try:
        content: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise Broken(f"The journal is unreadable: {error}") from None
    return content


def _live_release(box: VmBox) -> int:
    link = box.shell.run(f"readlink {PREFIX}/current").strip()
    version = box.shell.run(f"cat {PREFIX}/current/VERSION").strip()
    if link != f"releases/{version}" or not version.isdecimal():
        raise Broken(f"current leads to {link!r}, whose VERSION is {version!r}.")
    return int(version)


def _release_is_whole(box: VmBox, version: int, archive: Path) -> None:
    folder = f"{PREFIX}/releases/{version}"
    sums = "".join(f"{digest}  {name}\n" for name, digest in _manifest(archive).items())
    box.shell.run(f"cd {folder} && sha256sum --check --quiet --strict -", input=sums)
    box.shell.run(f"python3 - {folder} {folder}/{COMPONENT}", input=_PACKAGES, seconds=180)


def _services_are_up(box: VmBox) -> None:
    for unit in _UNITS:
        # The first line is a mark of the install script.
        compare = f"tail -n +2 /etc/systemd/system/{unit} | cmp - {PREFIX}/current/*/systemd/{unit}"
        box.shell.run(compare)
        box.shell.run(f"systemctl is-enabled {unit}")
        # The agent's page may respond before systemd has noticed the start.
        box.shell.run(f"timeout 30 sh -c 'until systemctl is-active {unit}; do sleep 1; done'")


def _state_is_whole(box: VmBox, version: int, archives: Mapping[int, Path]) -> None:
    stage = journal(box)["stage"]
    if stage not in AT_REST:
        raise Broken(f"The journal's stage is {stage}.")
    if aside := box.shell.run(f"find {STATE} -name '*.unreadable'").strip():
        raise Broken(f"The journal was unreadable once: {aside}.")
    digests = {_sha256(path.read_bytes()) for path in archives.values()}
    kept = box.shell.run(f"find {STATE} -name '{_ANY_NAME}' -exec sha256sum '{{}}' +")
    for line in kept.splitlines():
        if line.split()[0] not in digests:
            raise Broken(f"{line.split()[1]} is not whole, and has the name of one that is.")
    good = box.shell.run(f"cd {STATE}/archives && sha256sum --check $(readlink last-good).sha256")
    if not good.startswith(f"opq-box-update-{version}.tar.bz2:"):
        raise Broken(f"The box runs {version}, and would return to another: {good.strip()}")
    root = _sha256(box.prepared.keys.root.read_bytes())
    box.shell.run("sha256sum --check --quiet -", input=f"{root}  /etc/opq/root.json\n")
    box.shell.run(f"test $(cat {PREFIX}/IMAGE_VERSION) = {box.prepared.old_version}")


@lru_cache
def _manifest(archive: Path) -> Mapping[str, str]:
    """Return the digests of an archive's files in the release's folder, by path."""
    digests = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            path = member.name.partition("/")[2]
            if member.isfile() and path.startswith(tuple(f"{name}/" for name in _FOLDERS)):
                content = tar.extractfile(member)
                assert content is not None
                digests[path] = _sha256(content.read())
    return digests


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
