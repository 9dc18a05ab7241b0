"""
Both daemons work after each kind of installation in an empty venv.

An editable installation is not tried here, because all tests run in one.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytest_twisted

from tests.functional.box import Spawn
from tests.functional.processes import ROOT, TIMEOUT, copy_sources, skip
from tests.helpers.torture import TORTURE

#: The options of `pip` for a file with hashes; most of what it would compile is never imported.
LOCKED = ("--no-compile", "--require-hashes", "--no-deps")

#: Makes a source distribution in a folder.
MAKE_SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"

# These tests share a venv.
pytestmark = pytest.mark.xdist_group("packaging")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy the sources, so that nothing is built in the real ones."""
    return copy_sources(tmp_path / "checkout")


def run(*argv: object, folder: Path) -> str:
    """Run a program that must succeed; returns its output."""
    done = subprocess.run(
        [str(item) for item in argv],
        cwd=folder,
        # Otherwise each start would compile what it imports.
        env={name: os.environ[name] for name in os.environ if name != "PYTHONDONTWRITEBYTECODE"},
        capture_output=True,
        text=True,
        timeout=5 * TIMEOUT,
        check=False,
    )
    if "Could not find a version that satisfies" in done.stderr:
        skip("this test needs a package index")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a venv with the locked packages only; returns the folder of its programs."""
    folder = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-I", "-m", "venv", folder, folder=ROOT)
    locks = ("-r", "requirements.lock", "-r", "requirements-build.lock")
    run(folder / "bin" / "pip", "install", "--quiet", *LOCKED, *locks, folder=ROOT)
    return folder / "bin"


@pytest.fixture
def install(programs: Path, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Install the project into that venv; it is uninstalled after the test."""

    def begin(*what: object) -> None:
        pip = (programs / "pip", "install", "--quiet")
        run(*pip, "--no-deps", "--no-build-isolation", *what, folder=tmp_path)
        run(programs / "pip", "check", folder=tmp_path)

    yield begin
    run(programs / "pip", "uninstall", "--quiet", "--yes", "opq_twisted", folder=tmp_path)
    assert "opq-update-server" not in run(programs / "twistd", "--help", folder=tmp_path)


def test_wheel_from_sdist(
    checkout: Path, install: Callable[..., None], programs: Path, tmp_path: Path
) -> None:
    """
    The sdist has the sources of the wheel and the builder; the wheel works.

    Keys among the sources are left out. Under torture the wheel is built in an empty environment.
    """
    secrets = ("timestamp.pem", "timestamp.passphrase", "root-2.draft.json")
    for name in secrets:
        (checkout / "deploy" / "server" / name).touch()
    if TORTURE:
        build = (sys.executable, "-m", "build", "--quiet", "--outdir", tmp_path)
        run(*build, checkout, folder=tmp_path)
    else:
        run(programs / "python", "-c", MAKE_SDIST, tmp_path, folder=checkout)
    [sdist] = tmp_path.glob("*.tar.gz")
    install(*(tmp_path.glob("*.whl") if TORTURE else [sdist]))
    _both_daemons_are_there(programs, tmp_path)
    run("tar", "xzf", sdist, folder=tmp_path)
    [unpacked] = [path for path in tmp_path.glob("opq_twisted-*") if path.is_dir()]
    run(unpacked / "build_update.py", "--no-wheels", "--version", "1547860803", folder=tmp_path)
    assert (tmp_path / "opq-box-update-1547860803.tar.bz2").exists()
    assert (unpacked / "deploy" / "server" / "timestamp.conf").exists()
    assert (unpacked / "requirements-pip.lock").exists()
    assert [name for name in secrets if list(unpacked.rglob(name))] == []


@pytest_twisted.ensureDeferred
async def test_from_the_folder(
    checkout: Path,
    install: Callable[..., None],
    programs: Path,
    tmp_path: Path,
    updates: Path,
    spawn: Spawn,
) -> None:
    """
    After `pip install .` twistd has both daemons, they have all their files, and the server starts.

    It takes reports with the locked packages of the fleet, and not without them.
    """
    install(checkout)
    _both_daemons_are_there(programs, tmp_path)
    for wing in ("box", "server"):
        page = (
            f"from opq_twisted.{wing}.web import __path__; open(f'{{__path__[0]}}/page/index.html')"
        )
        run(programs / "python", "-c", page, folder=tmp_path)

    server = (programs / "opq-update-server", "--port", "tcp:0:interface=127.0.0.1")
    options = ("--updates-dir", updates)
    fleet = ("--fleet-db", f"sqlite:///{tmp_path}/fleet.db", "--fleet-socket", tmp_path / "sock")
    await spawn(*server, *options).ready()
    await spawn(*server, *options, *fleet).refuses_to_start(
        "install those of requirements-fleet.lock"
    )
    # This test is the last one, because the others do without these packages.
    locks = ("-r", "requirements-fleet.lock")
    run(programs / "pip", "install", "--quiet", *LOCKED, *locks, folder=ROOT)
    run(programs / "pip", "check", folder=tmp_path)
    await spawn(*server, *options, *fleet).ready()


def _both_daemons_are_there(programs: Path, folder: Path) -> None:
    shown = run(programs / "twistd", "--help", folder=folder)
    assert "opq-update-server" in shown
    assert "opq-box-agent" in shown
    for daemon in ("opq-update-server", "opq-box-agent"):
        for program in ([programs / "twistd", daemon], [programs / daemon]):
            assert "--port" in run(*program, "--help", folder=folder)
