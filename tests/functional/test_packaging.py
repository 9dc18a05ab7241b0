"""Both daemons work after each kind of installation in an empty venv."""

import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.functional.processes import ROOT, TIMEOUT, copy_sources, skip

LOCKS = ("requirements.lock", "requirements-build.lock")

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
    venv.create(folder, with_pip=True)
    locks = [f"--requirement={ROOT / name}" for name in LOCKS]
    pip = (folder / "bin" / "pip", "install", "--quiet")
    run(*pip, "--require-hashes", "--no-deps", *locks, folder=folder)
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


def test_from_the_folder(
    checkout: Path, install: Callable[..., None], programs: Path, tmp_path: Path
) -> None:
    """After `pip install .` twistd has both daemons, and they have all their files."""
    install(checkout)
    _both_daemons_are_there(programs, tmp_path)
    for wing in ("box", "server"):
        page = (
            f"from opq_twisted.{wing}.web import __path__; open(f'{{__path__[0]}}/page/index.html')"
        )
        run(programs / "python", "-c", page, folder=tmp_path)


def test_editable(
    checkout: Path, install: Callable[..., None], programs: Path, tmp_path: Path
) -> None:
    """`pip install -e .` does not hide the plugins."""
    install("--editable", checkout)
    _both_daemons_are_there(programs, tmp_path)


def test_wheel_from_sdist(
    checkout: Path, install: Callable[..., None], programs: Path, tmp_path: Path
) -> None:
    """The sdist has the sources of the wheel and the builder; the wheel works.

    Keys among the sources are left out.
    """
    secrets = ("timestamp.pem", "timestamp.passphrase", "root-2.draft.json")
    for name in secrets:
        (checkout / "deploy" / "server" / name).touch()
    run(sys.executable, "-m", "build", "--quiet", "--outdir", tmp_path, checkout, folder=tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    [sdist] = tmp_path.glob("*.tar.gz")
    install(wheel)
    _both_daemons_are_there(programs, tmp_path)
    run("tar", "xzf", sdist, folder=tmp_path)
    [unpacked] = [path for path in tmp_path.glob("opq_twisted-*") if path.is_dir()]
    run(unpacked / "build_update.py", "--no-wheels", "--version", "1547860803", folder=tmp_path)
    assert (tmp_path / "opq-box-update-1547860803.tar.bz2").exists()
    assert (unpacked / "deploy" / "server" / "timestamp.conf").exists()
    assert (unpacked / "requirements-pip.lock").exists()
    assert [name for name in secrets if list(unpacked.rglob(name))] == []


def _both_daemons_are_there(programs: Path, folder: Path) -> None:
    shown = run(programs / "twistd", "--help", folder=folder)
    assert "opq-update-server" in shown
    assert "opq-box-agent" in shown
    for daemon in ("opq-update-server", "opq-box-agent"):
        for program in ([programs / "twistd", daemon], [programs / daemon]):
            assert "--port" in run(*program, "--help", folder=folder)
