"""The component of docs/your-own-boxes.md is built, installed in a sandbox, and runs."""

import os
import shlex
import sys
from pathlib import Path

import pytest_twisted

from tests.functional.box import Spawn
from tests.functional.processes import ROOT, run, skip, succeed

EXAMPLE = ROOT / "examples" / "mysensor"
AGENT = "box-configuration-daemon"


@pytest_twisted.ensureDeferred
async def test_installed(tmp_path: Path, spawn: Spawn) -> None:
    """The daemon runs with the package of its requirements.txt."""
    # The real agent has many packages, which the test of install_update.sh installs.
    agent = tmp_path / "agent" / "bin" / "opq-box-agent"
    agent.parent.mkdir(parents=True)
    agent.write_text("#!/bin/sh\n")
    (tmp_path / "agent" / "requirements.txt").touch()
    status, _, said = await run(
        *(sys.executable, str(ROOT / "build_update.py"), "--version=1547860803"),
        *(f"--component=mysensor={EXAMPLE}", f"--component={AGENT}={tmp_path / 'agent'}"),
        f"--output-dir={tmp_path}",
    )
    if "There is no wheel" in said:
        skip(f"needs an index with the package of the example: {said}")
    assert status == 0, said
    await succeed("tar", "xf", tmp_path / "opq-box-update-1547860803.tar.bz2", folder=tmp_path)
    update, prefix = tmp_path / "opq-box-update-files", tmp_path / "opq"
    sandbox = ("env", f"OPQ_PREFIX={prefix}", "OPQ_SYSTEMD=no", f"OPQ_PYTHON={sys.executable}")
    await succeed(*sandbox, update / "install_update.sh")

    unit = (prefix / "current" / "mysensor" / "systemd" / "mysensor.service").read_text()
    [command] = (line for line in unit.splitlines() if line.startswith("ExecStart="))
    command = command.removeprefix("ExecStart=").replace("/opt/opq", os.fspath(prefix))
    daemon = spawn(*shlex.split(command.replace("${PORT}", "loop://")))
    await daemon.says("230.1 V\n")
