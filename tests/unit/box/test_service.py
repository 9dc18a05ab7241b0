"""The agent is assembled from its command line, or a sentence says why not."""

import io
import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.network.connection import IdleConnections
from opq_twisted.box.report.identity import load_identity
from opq_twisted.box.report.scheduler import ReportScheduler
from opq_twisted.box.service import Options, makeService
from opq_twisted.box.update.dependencies import NoReports
from opq_twisted.box.update.scheduler import Scheduler
from opq_twisted.box.update.updater import Updater
from opq_twisted.box.watchdog import WatchdogService
from opq_twisted.box.web.page_port import PagePort
from opq_twisted.common.daemon_options import WrongCommandLine
from opq_twisted.common.errors import CannotStart
from opq_twisted.common.sighup import SighupHandler


class ServiceTests(SynchronousTestCase):
    """The service that `makeService` makes of its options."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.config = self.folder / "config.json"
        self.state_dir = self.folder / "lib" / "updater"
        self.configure()

    def configure(self, **settings: Any) -> None:
        content = {"updates_ep": "http://updates.example", "box_id": 3, "updater": settings}
        self.config.write_text(json.dumps(content))

    def make(self, *arguments: str) -> IService:
        options = Options()
        options.parseOptions(
            ["--config", str(self.config), "--state-dir", str(self.state_dir), *arguments]
        )
        return makeService(options)

    def refusal(self, *arguments: str) -> str:
        with self.assertRaises(CannotStart) as caught:
            self.make(*arguments)
        sentence = str(caught.exception)
        self.assertNotIn("\n", sentence)
        return sentence

    def test_warnings(self) -> None:
        """The agent starts with a configuration that is probably a mistake, and logs a warning."""
        self.config.write_text(json.dumps({"updates_ep": "http://updates.example"}))
        with capturedLogs() as events:
            self.make()
        self.assertTrue(events[0]["sentence"].startswith("box_id is 0 or missing"), events)

    def test_defaults(self) -> None:
        """Without options, the documented paths and port are used."""
        options = Options()
        options.parseOptions([])
        self.assertEqual(
            dict(options),
            {
                "config": "/etc/opq/opqbox_config.json",
                "port": "8080",
                "state-dir": "/var/lib/opq/updater",
            },
        )

    def test_unknown_option(self) -> None:
        """An unknown option is refused."""
        self.patch(sys, "stderr", io.StringIO())
        with self.assertRaises(WrongCommandLine):
            self.make("--update")

    def test_parts(self) -> None:
        """The agent listens, updates and checks; only its state directory is created."""
        agent = self.make("--port", "0")
        assert isinstance(agent, MultiService)
        self.assertEqual(
            [type(part) for part in agent.services],
            [
                PagePort,
                IdleConnections,
                ReportScheduler,
                Updater,
                Scheduler,
                SighupHandler,
                WatchdogService,
            ],
        )
        found = {path.name for path in self.state_dir.iterdir()}
        self.assertEqual(found, {"agent.lock", "archives", "box.key"})

    def test_no_reports(self) -> None:
        """A box that must not report makes no key, and shows no fingerprint."""
        self.configure(report=False)
        agent = self.make("--port", "0")
        assert isinstance(agent, MultiService)
        self.assertNotIn(ReportScheduler, [type(part) for part in agent.services])
        self.assertFalse((self.state_dir / "box.key").exists())
        [updater] = [part for part in agent.services if isinstance(part, Updater)]
        self.assertIsInstance(updater._deps.reports, NoReports)
        self.assertIsNone(updater._deps.board.current.fingerprint)

    def test_no_key(self) -> None:
        """A box that cannot make a key runs without reports."""
        (self.state_dir / "box.key").mkdir(parents=True)
        agent = self.make("--port", "0")
        assert isinstance(agent, MultiService)
        self.assertNotIn(ReportScheduler, [type(part) for part in agent.services])

    def test_reports(self) -> None:
        """The page and the updater know the key, and the updater reports by the service."""
        agent = self.make("--port", "0")
        assert isinstance(agent, MultiService)
        [sender] = [part for part in agent.services if isinstance(part, ReportScheduler)]
        [updater] = [part for part in agent.services if isinstance(part, Updater)]
        self.assertIs(updater._deps.reports, sender)
        identity = load_identity(self.state_dir / "box.key")
        assert identity is not None
        self.assertEqual(updater._deps.board.current.fingerprint, identity.fingerprint)

    def test_name(self) -> None:
        """The name is the configured one, or the host name."""
        self.patch(socket, "gethostname", lambda: "raspberrypi")
        for configured, name in (("Kitchen", "Kitchen"), ("", "raspberrypi")):
            self.configure(name=configured)
            agent = self.make("--port", "0")
            assert isinstance(agent, MultiService)
            [updater] = [part for part in agent.services if isinstance(part, Updater)]
            shown = updater._deps.board.current
            self.assertEqual((shown.name, shown.box_id), (name, 3))
            shutil.rmtree(self.state_dir)

    def test_environment(self) -> None:
        """systemd's variables are not inherited by the agent's children."""
        self.patch(os, "environ", {**os.environ, "NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1"})
        self.make()
        self.assertEqual({"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(os.environ), set())

    def test_configuration(self) -> None:
        """The agent does not start with an invalid configuration, and names the key."""
        self.configure(check_every=0)
        self.assertIn("check_every must be more than 0", self.refusal())
        self.config.unlink()
        self.assertIn("--config", self.refusal())

    def test_password(self) -> None:
        """The agent does not start without the configured password."""
        self.configure(web_password_file="/nonexistent/password")
        self.assertIn("The password file /nonexistent/password cannot be read", self.refusal())

    def test_one_agent(self) -> None:
        """Two agents cannot use the same state directory."""
        self.make()
        self.assertIn(f"Another agent uses {self.state_dir}", self.refusal())

    def test_state_dir(self) -> None:
        """The error names a state directory that cannot be created."""
        self.state_dir.parent.write_text("This is no folder.")
        self.assertIn(f"Cannot write in the state directory {self.state_dir}", self.refusal())

    def test_port(self) -> None:
        """An invalid port is refused, with an example."""
        self.assertIn("--port nonsense:1", self.refusal("--port", "nonsense:1"))
