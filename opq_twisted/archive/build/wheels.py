"""Downloads the wheels of the components' Python packages, for boxes without internet."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from opq_twisted.archive.build.components import AGENT, REQUIREMENTS
from opq_twisted.archive.build.contents import Contents
from opq_twisted.common.errors import BuildFailed

#: The C library and its version in a platform tag (PEP 600, PEP 656). A machine supports several.
_LINUX = re.compile(r"\A(?:many)?(musl)?linux(?:\d+|_\d+_\d+)?_")

#: A requirement that names a folder or an address, which a box without internet cannot use.
_ADDRESS = re.compile(r"^\s*(?:-e\b|--editable\b|[./]|[^#\s-][^#\n]*://).*", re.MULTILINE)

# pip's messages about hashes: a heading, then a line for each package.
_MISMATCH = re.compile(r"DO NOT MATCH THE HASHES.*\n\s+([^\s;]+)(?:;.*?)?(?: from ([^\s#]+))?")
_NO_HASH = re.compile(
    r"(?:versions pinned with ==|Hashes are required|Can't verify hashes).*\n\s+([^\s;]+)"
)
# pip's messages about a package that has no wheel, the second one if another package needs it.
_NO_WHEEL = re.compile(
    r"No matching distribution found for ([^\s;]+)"
    r"|no matching distributions available for your environment:\s+([^\s;]+)"
)


# Dataclasses and not attrs: the builder runs on a Python without packages.
@dataclass(frozen=True, slots=True)
class _Packages:
    """The Python packages of a component."""

    component: str
    requirements: Path
    #: For their wheels.
    folder: Path

    @property
    def lock(self) -> Path:
        """The file with the versions and hashes: the requirements have them without a lock."""
        lock = self.requirements.with_name("requirements.lock")
        return lock if lock.exists() else self.requirements

    @property
    def must_have_hashes(self) -> bool:
        """Whether only files with known hashes are accepted."""
        return (
            self.component == AGENT
            or self.lock != self.requirements
            or "--hash" in self.requirements.read_text(encoding="utf-8", errors="replace")
        )


@dataclass(frozen=True, slots=True)
class _Target:
    """A kind of box."""

    #: For pip.
    options: Sequence[str]
    #: For an error message.
    words: str


def fetch_wheels(
    contents: Contents,
    folder: Path,
    pip_lock: Path,
    platforms: Sequence[str],
    python_versions: Sequence[str],
) -> None:
    """
    Download the Python packages in each component's requirements.txt, and pip for the box.

    Boxes install them as root, and an index may replace the file of a version. So only files with a
    known hash are accepted. The hashes are in requirements.lock beside requirements.txt in the
    sources; without such a file they must be in requirements.txt itself. Only another component
    than the agent may have no hashes at all, which is reported.

    :param folder: for the agent's wheels; those of another component are in a folder with its name,
        because it may need other versions.
    :param pip_lock: the version and the hashes of pip, in the same format.
    :param platforms: platform tags as pip uses them. The packages for different machines are
        downloaded separately.
    :param python_versions: the packages are downloaded for each of them, by default for this one.
    :raises BuildFailed: if the agent's requirements.txt is missing, a package has no known hash or
        another one, a required package is missing from the lock, or pip fails.
    """
    if f"{AGENT}/{REQUIREMENTS}" not in contents:
        raise BuildFailed(
            f"{AGENT} has no requirements.txt that says which wheels it needs: add it, or give "
            "--no-wheels."
        )
    for path, file in contents.items():
        component, _, name = path.partition("/")
        if file and name == REQUIREMENTS:
            is_agent = component == AGENT
            packages = _Packages(component, file.source, folder if is_agent else folder / component)
            locks = (packages.lock, pip_lock) if is_agent else (packages.lock,)
            _fetch(packages, locks, _targets(platforms, python_versions))


def _fetch(packages: _Packages, locks: Sequence[Path], targets: Iterable[_Target]) -> None:
    if sys.stderr.isatty():
        print(f"Fetching the Python packages of {packages.component}.", file=sys.stderr)
    if packages.must_have_hashes:
        # Without dependencies: for an extra, such as twisted[tls], some versions of pip try the
        # newest version first, which has no known hash.
        options = ["--require-hashes", "--no-deps", *(f"--requirement={lock}" for lock in locks)]
    else:
        _accept_without_hashes(packages)
        options = [f"--requirement={packages.requirements}"]
    for target in targets:
        if said := _download(packages.folder, *options, *target.options):
            raise BuildFailed(_sentence(said, packages.component, target))
        _require_all(packages, target)


def _targets(platforms: Sequence[str], python_versions: Sequence[str]) -> Iterator[_Target]:
    for machine, version in product(_by_machine(platforms), dict.fromkeys(python_versions) or [""]):
        options = [f"--platform={platform}" for platform in machine]
        options += [f"--python-version={version}"] if version else []
        options += ["--implementation=cp"] if options else []
        words = [f"Python {version}"] if version else []
        words += [f"the platform {' or '.join(machine)}"] if machine else []
        yield _Target(options, " on ".join(words) or "this machine")


def _by_machine(platforms: Sequence[str]) -> list[list[str]]:
    """Group platforms by machine: pip downloads one wheel for several alternative platforms."""
    machines: dict[str, list[str]] = {}
    for platform in platforms:
        machines.setdefault(_LINUX.sub(r"\1linux_", platform), []).append(platform)
    return list(machines.values()) or [[]]


def _accept_without_hashes(packages: _Packages) -> None:
    name = f"{packages.component}/{REQUIREMENTS}"
    text = packages.requirements.read_text(encoding="utf-8", errors="replace")
    if found := _ADDRESS.search(text):
        raise BuildFailed(
            f"{name} asks for {found[0].strip()}, which a box without internet cannot fetch: name "
            "the package and its version, and put its wheel into a folder (PIP_FIND_LINKS)."
        )
    print(
        f"{name} has no hashes, so the update gets the packages that the index has today: "
        "docs/your-own-boxes.md says how to pin them.",
        file=sys.stderr,
    )


def _require_all(packages: _Packages, target: _Target) -> None:
    """Resolve the requirements as a box does, from the downloaded files alone."""
    with tempfile.TemporaryDirectory(prefix="opq-wheels-") as scratch:
        source = ("--isolated", "--no-index", f"--find-links={packages.folder}")
        requirements = f"--requirement={packages.requirements}"
        said = _download(Path(scratch), *source, requirements, *target.options)
    if said:
        raise BuildFailed(
            f"{packages.lock.name} lacks packages that {packages.component}/requirements.txt asks "
            f"for, on {target.words} ({_complaint(said)}): renew it "
            "(docs/building-an-update.md), or give --no-wheels."
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


def _sentence(pip_output: str, component: str, target: _Target) -> str:
    """Translate the error messages of pip."""
    if changed := _MISMATCH.search(pip_output):
        package, url = changed.groups()
        return (
            f"{url or package} has none of the hashes that are known for {package}, so somebody "
            "may have changed it: nothing was built. Use an index without it."
        )
    if unknown := _NO_HASH.search(pip_output):
        return (
            f"{unknown[1]}, which {component} needs, has no version and hash in a "
            "requirements.lock beside its requirements.txt: renew that file "
            "(docs/building-an-update.md), or give --no-wheels."
        )
    if missing := _NO_WHEEL.search(pip_output):
        return (
            f"There is no wheel of {missing[1] or missing[2]}, which {component} needs, for "
            f"{target.words}: check the name, the version and the network, build on such a "
            "machine, or give --no-wheels."
        )
    return (
        f"pip could not fetch the wheels of {component} for {target.words} "
        f"({_complaint(pip_output)}): fix that, or give --no-wheels."
    )


def _complaint(pip_output: str) -> str:
    """Find the last error message in the output of pip."""
    lines = [line for line in pip_output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR: ") and "for help visit" not in line]
    return (errors or lines)[-1].removeprefix("ERROR: ").rstrip(".")
