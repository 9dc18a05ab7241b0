"""systemd and the rescue are told that the agent works, and nobody else is told anything."""

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
    """A socket as systemd has it."""

    def setUp(self) -> None:
        # trial's folders can be too deep for a socket's address.
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
        """Return what was said since the last call."""
        said = []
        while True:
            try:
                said.append(self.systemd.recv(4096).decode())
            except BlockingIOError:
                return said

    def signs(self, service_manager: ServiceManager) -> WatchdogService:
        return WatchdogService(self.clock, service_manager, self.state_dir)


class EnvironmentTests(SystemdCase):
    """What is taken out of the environment."""

    def test_nobody(self) -> None:
        """Where systemd did not start the agent, nobody is told."""
        self.assertEqual(take_service_manager({"PATH": "/bin"}, 7), ServiceManager())
        self.assertEqual(take_service_manager({"NOTIFY_SOCKET": ""}, 7), ServiceManager())
        ServiceManager().notify("READY=1")

    def test_removed(self) -> None:
        """A child of the agent finds nothing that it could take as meant for itself."""
        environment = {
            "NOTIFY_SOCKET": self.path,
            "WATCHDOG_USEC": "60000000",
            "WATCHDOG_PID": "7",
            "PATH": "/bin",
        }
        self.assertEqual(take_service_manager(environment, 7), ServiceManager(self.path, 60.0))
        self.assertEqual(environment, {"PATH": "/bin"})

    def test_no_watchdog(self) -> None:
        """Signs of life are sent only when this very process is asked for them."""
        for variables in (
            {},
            {"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"},
            {"WATCHDOG_USEC": "0"},
            {"WATCHDOG_USEC": "soon"},
        ):
            service_manager = take_service_manager({"NOTIFY_SOCKET": self.path, **variables}, 7)
            self.assertEqual(service_manager, ServiceManager(self.path), variables)

    def test_abstract_address(self) -> None:
        """An address in the kernel's own namespace begins with @ in the variable."""
        name = f"opq-test-{os.getpid()}"
        self.systemd = self.listen(f"\0{name}")
        take_service_manager({"NOTIFY_SOCKET": f"@{name}"}, 7).notify("READY=1")
        self.assertEqual(self.heard(), ["READY=1"])


class WatchdogServiceTests(SystemdCase):
    """What is said, and when."""

    def test_ready(self) -> None:
        """Only when the services before it have started, the agent is said to be ready."""
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
        """A sign of life comes at once, and each third of the time that systemd waits."""
        signs = self.signs(ServiceManager(self.path, 60.0))
        signs.startService()
        self.assertEqual(self.heard(), ["READY=1", "WATCHDOG=1"])
        self.clock.advance(19)
        self.assertEqual(self.heard(), [])
        self.clock.pump([1, 20, 20])
        self.assertEqual(self.heard(), ["WATCHDOG=1"] * 3)

    def test_stopping(self) -> None:
        """At its end the agent says so, once, and is silent."""
        signs = self.signs(ServiceManager(self.path, 60.0))
        signs.startService()
        self.heard()
        signs.stopService()
        self.assertEqual(self.heard(), ["STOPPING=1"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopped_without_start(self) -> None:
        """An agent that could not start stops like any other."""
        self.signs(ServiceManager(self.path, 60.0)).stopService()
        self.assertEqual(self.heard(), ["STOPPING=1"])

    def test_nobody_listens(self) -> None:
        """When systemd cannot be told, that is logged, and the agent goes on trying."""
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
        """A systemd that does not read its messages does not block the agent."""
        signs = self.signs(ServiceManager(self.path, 3.0))
        signs.startService()
        # systemd's socket holds so many messages (unix(7)).
        most = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
        self.clock.pump([1] * (most + 2))
        self.assertTrue(self.flushLoggedErrors(BlockingIOError))
        self.assertIn("WATCHDOG=1", self.heard())

    def test_blocked_reactor(self) -> None:
        """A real agent is silent while its reactor is blocked."""
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
            # It would go on without an end.
            for _ in range(100):
                self.systemd.recv(100)


class ProofTests(SystemdCase):
    """What the rescue counts."""

    def test_proven(self) -> None:
        """An agent that has run for ten minutes needs no rescue, and the count begins anew."""
        tries = self.state_dir / "rescue.tries"
        tries.write_text("return\n")
        self.signs(ServiceManager()).startService()
        self.clock.advance(RESCUE_RESET_AFTER - 1)
        self.assertTrue(tries.exists())
        self.clock.advance(1)
        self.assertFalse(tries.exists())

    def test_ended_early(self) -> None:
        """One that ends before leaves the count as it is."""
        signs = self.signs(ServiceManager())
        signs.startService()
        signs.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_count(self) -> None:
        """Mostly there was no rescue, and a disk that fails is no reason to end."""
        signs = self.signs(ServiceManager())
        signs.startService()
        self.clock.advance(RESCUE_RESET_AFTER)
        (self.state_dir / "rescue.tries").mkdir()
        signs.startService()
        self.clock.advance(RESCUE_RESET_AFTER)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
