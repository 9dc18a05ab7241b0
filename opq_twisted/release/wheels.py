"""Fetch the wheels of the agent's Python packages, for a box without internet."""

import subprocess
import sys
from pathlib import Path

from opq_twisted.errors import BuildFailed
from opq_twisted.release.contents import Contents
from opq_twisted.release.pack import AGENT


def fetch_wheels(
    contents: Contents, folder: Path, platforms: list[str], python_version: str | None
) -> None:
    """
    Download the Python packages that the agent's requirements.txt asks for, and a pip for the box.

    A constraints.txt beside it in the sources says which versions exactly.

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
    command += [f"--platform={platform}" for platform in platforms]
    if python_version is not None:
        command.append(f"--python-version={python_version}")
    if platforms or python_version is not None:
        command.append("--implementation=cp")
    if sys.stderr.isatty():
        print("Fetching the agent's Python packages.", file=sys.stderr)
    pip = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if pip.returncode != 0:
        raise BuildFailed(
            f"pip could not fetch the wheels ({_complaint(pip.stderr)}): mend that, or give "
            "--no-wheels."
        )


def _complaint(pip_output: str) -> str:
    """Find the last line in which pip says what was wrong."""
    lines = [line for line in pip_output.splitlines() if line.strip()] or ["it does not say why"]
    errors = [line for line in lines if line.startswith("ERROR: ") and "for help visit" not in line]
    return (errors or lines)[-1].removeprefix("ERROR: ").rstrip(".")
