"""The units of systemd fit to the programs that they start."""

import re

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box import service as box
from opq_twisted.http.connection_limits import RESERVE
from opq_twisted.server import service as server
from tests.helpers.project import PROJECT

DEPLOY = PROJECT / "deploy"


def settings(unit: str) -> dict[str, str]:
    """Read the settings of a unit; of those that are there several times, the last."""
    lines = (DEPLOY / unit).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))


class DescriptorTests(SynchronousTestCase):
    """`LimitNOFILE` is enough for all connections, and the program's own work."""

    def test_server(self) -> None:
        """A download needs one descriptor more, for its file."""
        defaults = server.Options()
        needed = defaults["max-connections"] + defaults["max-downloads"] + RESERVE
        limit = int(settings("server/opq-update-server.service")["LimitNOFILE"])
        self.assertGreaterEqual(limit, needed)

    def test_box(self) -> None:
        """The page has little."""
        limit = int(settings("box/systemd/opq-box-agent.service")["LimitNOFILE"])
        self.assertGreaterEqual(limit, box._CONNECTIONS + RESERVE)


class NotifyTests(SynchronousTestCase):
    """A unit counts as started when its program says so, and fails when the program does."""

    def test_both(self) -> None:
        """Only the main process is heard."""
        for unit in ("server/opq-update-server.service", "box/systemd/opq-box-agent.service"):
            found = settings(unit)
            self.assertEqual((found["Type"], found["NotifyAccess"]), ("notify", "main"))
