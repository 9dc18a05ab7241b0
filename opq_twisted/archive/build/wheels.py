"""Downloads the wheels of the agent's Python packages, for boxes without internet."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path

from opq_twisted.archive.build.contents import Contents
from opq_twisted.archive.build.pack import AGENT
from opq_twisted.common.errors import BuildFailed

#: The C library and its version in a platform tag (PEP 600, PEP 656). A machine supports several.
_LINUX = re.compile(r"\A(?:many)?(musl)?linux(?:\d+|_\d+_\d+)?_")

# pip's messages about hashes: a heading, then a line for each package.
_MISMATCH = re.compile(r"DO NOT MATCH THE HASHES.*\n\s+([^\s;]+)(?:;.*?)?(?: from ([^\s#]+))?")
_NO_HASH = re.compile(
    r"(?:versions pinned with ==|Hashes are required|Can't verify hashes).*\n\s+([^\s;]+)"
)


def fetch_wheels(
    contents: Contents,
    folder: Path,
    pip_lock: Path,
    platforms: Sequence[str],
    python_versions: Sequence[str],
) -> None:
    """
    Download the Python packages in the agent's requirements.txt, and pip for the box.

    Boxes install them as root, and an index may replace the file of a version. So only files with a
    known hash are accepted. The hashes are in requirements.lock beside requirements.txt in the
    sources; without such a file they must be in requirements.txt itself.

    :param pip_lock: the version and the hashes of pip, in the same format.
    :param platforms: platform tags as pip uses them. The packages for different machines are
        downloaded separately.
    :param python_versions: the packages are downloaded for each of them, by default for this one.
    :raises BuildFailed: if requirements.txt is missing, a package has no known hash or another one,
        a required package is missing from the lock, or pip fails.
    """
    requirements = contents.get(f"{AGENT}/requirements.txt")
    if requirements is None:
        raise BuildFailed(
            f"{AGENT} has no requirements.txt that says which wheels it needs: add it, or give "
            "--no-wheels."
        )
    lock = requirements.source.with_name("requirements.lock")
    if not lock.exists():
        lock = requirements.source
    if sys.stderr.isatty():
        print("Fetching the agent's Python packages.", file=sys.stderr)
    for target, name in _targets(platforms, python_versions):
        _fetch_locked(folder, (lock, pip_lock), target, name)
        _require_all(folder, requirements.source, target, name)


def _targets(
    platforms: Sequence[str], python_versions: Sequence[str]
) -> Iterator[tuple[list[str], str]]:
    """Yield pip's options for each kind of box, and the first words of an error message."""
    for machine, version in product(_by_machine(platforms), dict.fromkeys(python_versions) or [""]):
        options = [f"--platform={platform}" for platform in machine]
        options += [f"--python-version={version}"] if version else []
        options += ["--implementation=cp"] if options else []
        yield options, f"for Python {version}: " if version else ""


def _by_machine(platforms: Sequence[str]) -> list[list[str]]:
    """Group platforms by machine: pip downloads one wheel for several alternative platforms."""
    machines: dict[str, list[str]] = {}
    for platform in platforms:
        machines.setdefault(_LINUX.sub(r"\1linux_", platform), []).append(platform)
    return list(machines.values()) or [[]]


def _fetch_locked(folder: Path, locks: Iterable[Path], target: Sequence[str], name: str) -> None:
    # Without dependencies: for an extra, such as twisted[tls], some versions of pip try the newest
    # version first, which has no known hash.
    files = [f"--requirement={lock}" for lock in locks]
    if said := _download(folder, "--require-hashes", "--no-deps", *files, *target):
        raise BuildFailed(_sentence(said, name))


def _require_all(folder: Path, requirements: Path, target: Sequence[str], name: str) -> None:
    """Resolve the requirements as a box does, from the downloaded files alone."""
    with tempfile.TemporaryDirectory(prefix="opq-wheels-") as scratch:
        source = ("--isolated", "--no-index", f"--find-links={folder}")
        said = _download(Path(scratch), *source, f"--requirement={requirements}", *target)
    if said:
        raise BuildFailed(
            f"requirements.lock lacks packages that {AGENT}/requirements.txt asks for "
            f"({name}{_complaint(said)}): renew it (docs/building-an-update.md), or give "
            "--no-wheels."
        )


def _download(folder: Path, *options: str) -> str:
    """Run pip, and return its error messages; the text is empty if it succeeds."""
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
    environment = dict(os.environ)
    if "--isolated" in options:
        # The machine's pip.conf could still name another index.
        environment["PIP_CONFIG_FILE"] = os.devnull
    pip = subprocess.run(
        [*command, f"--dest={folder}", *options],
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    return "" if pip.returncode == 0 else pip.stderr.strip() or "it does not say why"


def _sentence(pip_output: str, name: str) -> str:
    """Translate the error messages of pip."""
    if changed := _MISMATCH.search(pip_output):
        package, url = changed.groups()
        return (
            f"{url or package} has none of the hashes that are known for {package}, so somebody "
            "may have changed it: nothing was built. Use an index without it."
        )
    if unknown := _NO_HASH.search(pip_output):
        return (
            f"{unknown[1]}, which {AGENT} needs, has no version and hash in a requirements.lock "
            "beside its requirements.txt: renew that file (docs/building-an-update.md), or give "
            "--no-wheels."
        )
    return (
        f"pip could not fetch the wheels ({name}{_complaint(pip_output)}): fix that, or give "
        "--no-wheels."
    )


def _complaint(pip_output: str) -> str:
    """Find the last error message in the output of pip."""
    lines = [line for line in pip_output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR: ") and "for help visit" not in line]
    return (errors or lines)[-1].removeprefix("ERROR: ").rstrip(".")
