"""The container image and the compose files fit the project."""

from typing import Any

import yaml
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted import __version__
from opq_twisted.server.service import Options
from tests.helpers.project import PROJECT

SERVER = PROJECT / "deploy" / "server"


def services(file: str) -> Any:
    return yaml.safe_load((SERVER / file).read_text())["services"]


class TestContainer(SynchronousTestCase):
    """The files in deploy/server."""

    def test_version(self) -> None:
        """The image's label has the version of the project."""
        label = f'org.opencontainers.image.version="{__version__}"'
        self.assertIn(label, (SERVER / "Dockerfile").read_text())

    def test_mounted_files(self) -> None:
        """Every file of the project that a service mounts is there."""
        mounted = [
            volume.partition(":")[0]
            for service in services("compose.yaml").values()
            for volume in service["volumes"]
            if volume.startswith("./")
        ]
        self.assertEqual(len(mounted), 6)
        self.assertEqual([path for path in mounted if not (SERVER / path).is_file()], [])

    def test_options(self) -> None:
        """The server understands its command lines."""
        for file in ("compose.yaml", "compose.signed.yaml"):
            command = services(file)["server"]["command"]
            options = Options()
            options.parseOptions([each.replace("${ROLLOUTS:-observe}", "ask") for each in command])
            self.assertTrue(options["fleet-db"].startswith("sqlite:////var/lib/"))

    def test_signed(self) -> None:
        """With a key the server keeps the options that it has without one."""
        plain, signed = (
            services(file)["server"]["command"] for file in ("compose.yaml", "compose.signed.yaml")
        )
        self.assertEqual(signed[: len(plain)], plain)
