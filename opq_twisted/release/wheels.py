"""Fetch the wheels of the agent's Python packages, for a box without internet."""

import re
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from opq_twisted.errors import BuildFailed
from opq_twisted.release.contents import Contents
from opq_twisted.release.pack import AGENT

#: The C library and its version in a platform's tag (PEP 600, PEP 656): a machine takes several.
_LINUX = re.compile(r"\A(?:many)?(musl)?linux(?:\d+|_\d+_\d+)?_")


def fetch_wheels(
    contents: Contents, folder: Path, platforms: Sequence[str], python_versions: Sequence[str]
) -> None:
    """
    Download the Python packages that the agent's requirements.txt asks for, and a pip for the box.

    A constraints.txt beside it in the sources says which versions exactly.

    :param platforms: tags in pip's words; those of different machines are fetched separately.
    :param python_versions: the packages are fetched for each of them, by default for this one.
    :raises BuildFailed: when that file is missing, or pip fails.
    """
    requirements = contents.get(f"{AGENT}/requirements.txt")
    if requirements is None:
        raise BuildFailed(
            f"{AGENT} has no requirements.txt that says which wheels it needs: add it, or give "
            "--no-wheels."
        )
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
    command += [f"--dest={folder}", f"--requirement={requirements.source}", "pip"]
    constraints = requirements.source.with_name("constraints.txt")
    if constraints.exists():
        command.append(f"--constraint={constraints}")
    if sys.stderr.isatty():
        print("Fetching the agent's Python packages.", file=sys.stderr)
    for machine, version in product(_by_machine(platforms), dict.fromkeys(python_versions) or [""]):
        options = [f"--platform={platform}" for platform in machine]
        options += [f"--python-version={version}"] if version else []
        options += ["--implementation=cp"] if options else []
        _download([*command, *options], f"for Python {version}: " if version else "")


def _by_machine(platforms: Sequence[str]) -> list[list[str]]:
    """Group platforms: to pip several are alternatives, of which it takes one wheel."""
    machines: dict[str, list[str]] = {}
    for platform in platforms:
        machines.setdefault(_LINUX.sub(r"\1linux_", platform), []).append(platform)
    return list(machines.values()) or [[]]


def _download(command: list[str], target: str) -> None:
    pip = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if pip.returncode != 0:
        complaint = target + _complaint(pip.stderr)
        raise BuildFailed(
            f"pip could not fetch the wheels ({complaint}): mend that, or give --no-wheels."
        )


def _complaint(pip_output: str) -> str:
    """Find the last line in which pip says what was wrong."""
    lines = [line for line in pip_output.splitlines() if line.strip()] or ["it does not say why"]
    errors = [line for line in lines if line.startswith("ERROR: ") and "for help visit" not in line]
    return (errors or lines)[-1].removeprefix("ERROR: ").rstrip(".")
