"""The systemd units fit the programs that they start."""

import re

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box import service as box
from opq_twisted.http.connection_limits import RESERVE
from opq_twisted.server import service as server
from tests.helpers.project import PROJECT

DEPLOY = PROJECT / "deploy"


def settings(unit: str) -> dict[str, str]:
    """Read the settings of a unit; of repeated ones, the last."""
    lines = (DEPLOY / unit).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))


class DescriptorTests(SynchronousTestCase):
    """`LimitNOFILE` is enough for all connections and the program's own work."""

    def test_server(self) -> None:
        """A download needs another descriptor for its file."""
        defaults = server.Options()
        needed = defaults["max-connections"] + defaults["max-downloads"] + RESERVE
        limit = int(settings("server/opq-update-server.service")["LimitNOFILE"])
        self.assertGreaterEqual(limit, needed)

    def test_box(self) -> None:
        """The limit covers the connections to the page."""
        limit = int(settings("box/systemd/opq-box-agent.service")["LimitNOFILE"])
        self.assertGreaterEqual(limit, box._CONNECTIONS + RESERVE)


class NotifyTests(SynchronousTestCase):
    """A unit counts as started when its program reports it."""

    def test_both(self) -> None:
        """Only the main process may report it."""
        for unit in ("server/opq-update-server.service", "box/systemd/opq-box-agent.service"):
            found = settings(unit)
            self.assertEqual((found["Type"], found["NotifyAccess"]), ("notify", "main"))


class RescueTests(SynchronousTestCase):
    """systemd starts the rescue when the agent fails to start ten times."""

    def test_ten_starts(self) -> None:
        """Ten failed starts of the agent always fit within systemd's interval."""
        drop_in = DEPLOY / "box" / "rescue" / "opq-box-agent.service.d" / "rescue.conf"
        lines = [line.partition("=") for line in drop_in.read_text().splitlines() if "=" in line]
        value = {name: number for name, _, number in lines}
        each = sum(int(value[name]) for name in ("RestartSec", "TimeoutStartSec", "TimeoutStopSec"))
        self.assertEqual(value["OnFailure"], "opq-box-rescue.service")
        self.assertEqual(value["Restart"], "always")
        self.assertLess(int(value["StartLimitBurst"]) * each, int(value["StartLimitIntervalSec"]))
