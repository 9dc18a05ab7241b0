"""opq-box sends nothing to a program of another user that has taken the agent's port."""

import os
import socket
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.cli.box import listener_owner
from opq_twisted.cli.box.agent_client import AgentClient
from opq_twisted.cli.box.listener_owner import foreign_listener
from opq_twisted.common.errors import AgentFailed
from tests.helpers.fake_agent import FakeAgent
from tests.helpers.privileges import without_privileges

#: A user id that no machine has.
NOBODY_KNOWN = 4_000_000_001

LISTENS, CONNECTED = "0A", "01"


def address(ip: str, port: int) -> str:
    """Write an address as the kernel does."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    raw = socket.inet_pton(family, ip)
    words = [raw[start : start + 4] for start in range(0, len(raw), 4)]
    if sys.byteorder == "little":
        words = [word[::-1] for word in words]
    return f"{b''.join(words).hex().upper()}:{port:04X}"


class TablesTests(SynchronousTestCase):
    """The search in the kernel's tables."""

    def setUp(self) -> None:
        self.table = Path(self.mktemp())
        self.patch(listener_owner, "_TABLES", (Path(self.mktemp()), self.table))
        self.rows: list[str] = []
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        self.client = socket.create_connection(listening.getsockname())
        self.addCleanup(self.client.close)
        self.port, self.own = listening.getsockname()[1], self.client.getsockname()[1]

    def row(self, ip: str, user: int, state: str = LISTENS, port: int | None = None) -> None:
        """Add a socket of a user to the table."""
        remote = ("127.0.0.1", self.own) if state == CONNECTED else ("0.0.0.0", 0)
        local = address(ip, self.port if port is None else port)
        self.rows.append(f"0: {local} {address(*remote)} {state} 0:0 0:0 0 {user} 0 1 1 0\n")
        self.table.write_text("  sl  local_address ...\n" + "".join(self.rows))

    def found(self) -> str | None:
        return foreign_listener(self.client)

    def test_agent(self) -> None:
        """Root and our own user are trusted."""
        for user in (0, os.geteuid()):
            self.rows = []
            self.row("127.0.0.1", user)
            self.assertIsNone(self.found())

    def test_foreign_listener(self) -> None:
        """Another user is found, on whichever address the program listens."""
        for ip in ("127.0.0.1", "0.0.0.0", "::", "::ffff:127.0.0.1"):
            self.rows = []
            self.row(ip, NOBODY_KNOWN)
            self.assertEqual(self.found(), str(NOBODY_KNOWN), ip)

    def test_elsewhere(self) -> None:
        """A socket with another address, port or family, or a less specific one, is ignored."""
        self.row("127.0.0.2", NOBODY_KNOWN)
        self.row("::1", NOBODY_KNOWN)
        self.row("127.0.0.1", NOBODY_KNOWN, port=1)
        self.assertIsNone(self.found())
        self.row("0.0.0.0", 0)
        self.row("::", NOBODY_KNOWN)
        self.assertIsNone(self.found())

    def test_ceased_to_listen(self) -> None:
        """A program that has accepted the connection and stopped listening is found."""
        self.row("127.0.0.1", NOBODY_KNOWN, CONNECTED)
        self.assertEqual(self.found(), str(NOBODY_KNOWN))

    def test_not_accepted(self) -> None:
        """A connection that has not been accepted yet belongs to the listening socket."""
        self.row("127.0.0.1", NOBODY_KNOWN)
        self.row("127.0.0.1", 0, CONNECTED)
        self.assertEqual(self.found(), str(NOBODY_KNOWN))

    def test_no_tables(self) -> None:
        """Without the kernel's tables nobody is found."""
        self.assertIsNone(self.found())


class AgentTests(SynchronousTestCase):
    """opq-box with the kernel's own tables."""

    def test_refused(self) -> None:
        """opq-box sends no request and no password to another user's program."""
        # The other user may be unable to read Python's library.
        "localhost".encode("idna")
        with without_privileges():
            agent = FakeAgent()
        self.addCleanup(agent.close)
        agent.password = b"secret"
        # The program has an ordinary user, and we have another one.
        self.patch(os, "geteuid", lambda: NOBODY_KNOWN)
        box = AgentClient(agent.url, lambda: self.fail("the password was asked for"))
        for ask in (box.status, box.update, box.check, box.history, lambda: box.log(0)):
            error = self.assertRaises(AgentFailed, ask)
            self.assertIn("A program of the user ", str(error))
        self.assertEqual(agent.asked, [])
