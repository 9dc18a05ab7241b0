"""The update server, driven by real clients."""

from pathlib import Path

import pytest_twisted

from tests.archives import make_archive
from tests.functional.conftest import StartDaemon
from tests.functional.processes import run


@pytest_twisted.ensureDeferred
async def test_version_by_curl(start: StartDaemon, tmp_path: Path) -> None:
    """The newest version is the highest number, not the last in the alphabet."""
    for version in (999999999, 1000000000):
        make_archive(tmp_path / f"opq-box-update-{version}.tar.bz2", version)
    server = await start("opq-update-server", "--updates-dir", tmp_path).ready()
    status, out, _ = await run("curl", "-sf", f"{server.url}/version")
    assert (status, out) == (0, "1000000000")
