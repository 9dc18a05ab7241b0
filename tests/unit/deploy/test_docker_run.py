"""What deploy/server/docker-run.sh lets docker do."""

import os
import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.helpers.project import PROJECT

SCRIPT = PROJECT / "deploy" / "server" / "docker-run.sh"
IMAGE = "openpowerquality/opqboxupdateserver"


class FleetTests(SynchronousTestCase):
    """The variable FLEET_DIR."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        docker = self.folder / "docker"
        docker.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        docker.chmod(0o755)

    def run_script(self, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run the script with a docker that prints its arguments."""
        path = f"{self.folder}:{os.environ['PATH']}"
        return subprocess.run(
            ["/bin/sh", SCRIPT, "8151", self.folder],
            capture_output=True,
            text=True,
            env={"PATH": path, **environment},
        )

    def test_fleet(self) -> None:
        """The folder is mounted, and has the database and the socket, besides other options."""
        ended = self.run_script(FLEET_DIR=str(self.folder), OPTIONS="--enrol closed")
        self.assertEqual((ended.returncode, ended.stderr), (0, ""))
        before, _, after = ended.stdout.partition(f"\n{IMAGE}\n")
        target = "/var/lib/opq-update-server"
        for argument in (
            f"--mount=type=bind,source={self.folder.resolve()},target={target}",
            f"OPQ_FLEET_SOCKET={target}/fleet.sock",
        ):
            self.assertIn(argument, before.splitlines())
        self.assertEqual(
            after.split(),
            [
                *("--fleet-db", f"sqlite:///{target}/fleet.db"),
                *("--fleet-socket", f"{target}/fleet.sock", "--enrol", "closed"),
            ],
        )

    def test_no_fleet(self) -> None:
        """Without it there is no fleet."""
        ended = self.run_script()
        self.assertEqual((ended.returncode, ended.stderr), (0, ""))
        self.assertNotIn("fleet", ended.stdout.replace(str(self.folder), ""))

    def test_missing(self) -> None:
        """A missing folder is named, and no container is started."""
        missing = str(self.folder / "missing")
        ended = self.run_script(FLEET_DIR=missing)
        self.assertEqual((ended.returncode, ended.stdout), (1, ""))
        self.assertIn(f"there is no folder {missing}: create it", ended.stderr)
