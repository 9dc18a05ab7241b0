"""The agent notifies systemd, and resets the rescue's counter."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.application.service import MultiService, Service
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.watchdog import RESCUE_RESET_AFTER, WatchdogService
from opq_twisted.common.sd_notify import ServiceManager, take_service_manager
from tests.helpers.box_fakes import logged


class SystemdCase(SynchronousTestCase):
    """A notification socket like systemd's."""

    def setUp(self) -> None:
        # trial's paths can be too long for the address of a socket.
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.state_dir = Path(folder.name)
        self.path = str(self.state_dir / "notify")
        self.systemd = self.listen(self.path)
        self.clock = Clock()

    def listen(self, address: str) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(listening.close)
        listening.bind(address)
        listening.setblocking(False)
        return listening

    def heard(self) -> list[str]:
        """Return the messages since the last call."""
        said = []
        while True:
            try:
                said.append(self.systemd.recv(4096).decode())
            except BlockingIOError:
                return said

    def signs(self, service_manager: ServiceManager) -> WatchdogService:
        return WatchdogService(self.clock, service_manager, self.state_dir)


class EnvironmentTests(SystemdCase):
    """The variables that are removed from the environment."""

    def test_nobody(self) -> None:
        """Without systemd, there are no notifications."""
        self.assertEqual(take_service_manager({"PATH": "/bin"}, 7), ServiceManager())
        self.assertEqual(take_service_manager({"NOTIFY_SOCKET": ""}, 7), ServiceManager())
        ServiceManager().notify("READY=1")

    def test_removed(self) -> None:
        """A child of the agent does not inherit the variables."""
        environment = {
            "NOTIFY_SOCKET": self.path,
            "WATCHDOG_USEC": "60000000",
            "WATCHDOG_PID": "7",
            "PATH": "/bin",
        }
        self.assertEqual(take_service_manager(environment, 7), ServiceManager(self.path, 60.0))
        self.assertEqual(environment, {"PATH": "/bin"})

    def test_no_watchdog(self) -> None:
        """Heartbeats are sent only if they are requested of this process."""
        for variables in (
            {},
            {"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"},
            {"WATCHDOG_USEC": "0"},
            {"WATCHDOG_USEC": "soon"},
        ):
            service_manager = take_service_manager({"NOTIFY_SOCKET": self.path, **variables}, 7)
            self.assertEqual(service_manager, ServiceManager(self.path), variables)

    def test_abstract_address(self) -> None:
        """The variable's leading @ stands for the abstract namespace."""
        name = f"opq-test-{os.getpid()}"
        self.systemd = self.listen(f"\0{name}")
        take_service_manager({"NOTIFY_SOCKET": f"@{name}"}, 7).notify("READY=1")
        self.assertEqual(self.heard(), ["READY=1"])


class WatchdogServiceTests(SystemdCase):
    """The notifications, and their times."""

    def test_ready(self) -> None:
        """READY=1 is sent after the other services have started."""
        heard = self.heard

        class Earlier(Service):
            def startService(self) -> None:
                self.heard_before = heard()

        earlier, agent = Earlier(), MultiService()
        earlier.setServiceParent(agent)
        self.signs(ServiceManager(self.path)).setServiceParent(agent)
        agent.startService()
        self.assertEqual((earlier.heard_before, self.heard()), ([], ["READY=1"]))
        self.clock.advance(1000)
        self.assertEqual(self.heard(), [])

    def test_watchdog(self) -> None:
        """A heartbeat is sent at once, and then at each third of the timeout."""
        signs = self.signs(ServiceManager(self.path, 60.0))
        signs.startService()
        self.assertEqual(self.heard(), ["READY=1", "WATCHDOG=1"])
        self.clock.advance(19)
        self.assertEqual(self.heard(), [])
        self.clock.pump([1, 20, 20])
        self.assertEqual(self.heard(), ["WATCHDOG=1"] * 3)

    def test_stopping(self) -> None:
        """STOPPING=1 is sent once at the end, and nothing after it."""
        signs = self.signs(ServiceManager(self.path, 60.0))
        signs.startService()
        self.heard()
        signs.stopService()
        self.assertEqual(self.heard(), ["STOPPING=1"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopped_without_start(self) -> None:
        """An agent that could not start can stop."""
        self.signs(ServiceManager(self.path, 60.0)).stopService()
        self.assertEqual(self.heard(), ["STOPPING=1"])

    def test_nobody_listens(self) -> None:
        """If a notification fails, that is logged, and the next one is sent."""
        said = logged(self)
        Path(self.path).unlink()
        signs = self.signs(ServiceManager(self.path, 60.0))
        signs.startService()
        self.assertIn("READY=1 could not be sent to systemd", said)
        self.assertEqual(len(self.flushLoggedErrors(FileNotFoundError)), 2)
        self.systemd = self.listen(self.path)
        self.clock.advance(20)
        self.assertEqual(self.heard(), ["WATCHDOG=1"])

    def test_busy(self) -> None:
        """A systemd that does not read its socket does not block the agent."""
        signs = self.signs(ServiceManager(self.path, 3.0))
        signs.startService()
        # The queue length of systemd's socket (unix(7)).
        most = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
        self.clock.pump([1] * (most + 2))
        self.assertTrue(self.flushLoggedErrors(BlockingIOError))
        self.assertIn("WATCHDOG=1", self.heard())

    def test_blocked_reactor(self) -> None:
        """A real agent sends no heartbeats while its reactor is blocked."""
        program = f"""
import signal, time
from pathlib import Path
from twisted.internet import reactor
from opq_twisted.box.watchdog import WatchdogService
from opq_twisted.common.sd_notify import ServiceManager
service_manager = ServiceManager({self.path!r}, 0.3)
WatchdogService(reactor, service_manager, Path({str(self.state_dir)!r})).startService()
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(60))
reactor.run()
"""
        process = subprocess.Popen([sys.executable, "-c", program])
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.systemd.settimeout(20)
        for expected in (b"READY=1", *[b"WATCHDOG=1"] * 3):
            self.assertEqual(self.systemd.recv(100), expected)
        process.send_signal(signal.SIGUSR1)
        self.systemd.settimeout(2)
        with self.assertRaises(TimeoutError):
            # It would run for ever.
            for _ in range(100):
                self.systemd.recv(100)


class ProofTests(SystemdCase):
    """The counter of the rescue."""

    def test_proven(self) -> None:
        """After the agent has run for ten minutes, the counter is removed."""
        tries = self.state_dir / "rescue.tries"
        tries.write_text("return\n")
        self.signs(ServiceManager()).startService()
        self.clock.advance(RESCUE_RESET_AFTER - 1)
        self.assertTrue(tries.exists())
        self.clock.advance(1)
        self.assertFalse(tries.exists())

    def test_ended_early(self) -> None:
        """If the agent ends earlier, the counter stays."""
        signs = self.signs(ServiceManager())
        signs.startService()
        signs.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_count(self) -> None:
        """A missing counter, or a failing disk, does not end the agent."""
        signs = self.signs(ServiceManager())
        signs.startService()
        self.clock.advance(RESCUE_RESET_AFTER)
        (self.state_dir / "rescue.tries").mkdir()
        signs.startService()
        self.clock.advance(RESCUE_RESET_AFTER)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
