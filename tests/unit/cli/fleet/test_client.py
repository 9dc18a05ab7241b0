"""The client of opq-fleet, and programs that are no update server."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.cli.fleet.client import FleetClient, FleetFailed, KeysRefused
from tests.helpers.fake_fleet_server import FakeFleetServer

_OK = b"HTTP/1.1 200 OK\r\n"


class ClientCase(SynchronousTestCase):
    """A socket of which the test decides what it answers."""

    def setUp(self) -> None:
        # The path of a socket has at most 107 bytes.
        folder = tempfile.mkdtemp(prefix="opq-", dir="/tmp")
        self.addCleanup(shutil.rmtree, folder)
        self.path = Path(folder, "s")
        self.server = FakeFleetServer(self.path)
        self.addCleanup(self.server.close)

    def refusal(self, timeout: float = 30.0) -> str:
        """Return the sentence of the error."""
        client = FleetClient(str(self.path), timeout)
        return str(self.assertRaises(FleetFailed, client.get, "status"))


class AnswersTests(ClientCase):
    """What a server answers."""

    def test_get(self) -> None:
        """A query has what was given, and no more."""
        self.server.answers["boxes"] = {"boxes": []}
        found = FleetClient(str(self.path)).get("boxes", channel="stable", release=None, limit=5)
        self.assertEqual(found.content, {"boxes": []})
        self.assertEqual(self.server.asked, [("boxes", {"channel": "stable", "limit": "5"})])

    def test_post(self) -> None:
        """A change is sent as JSON."""
        self.server.answers["hold"] = {"state": "held"}
        found = FleetClient(str(self.path)).post("hold", release=7, because="<b>'")
        self.assertEqual(found.text("state"), "held")
        self.assertEqual(self.server.asked, [("hold", {"release": 7, "because": "<b>'"})])

    def test_refused(self) -> None:
        """The sentence of the server is told."""
        self.server.status = 503
        self.server.answers["status"] = {"error": "The database is away."}
        self.assertEqual(self.refusal(), "The database is away.")

    def test_mistakes(self) -> None:
        """Mistakes in a list of keys have their positions; what is no position is left out."""
        self.server.status = 409
        mistakes = {"3": "This key is named twice.", "x": "?", "9" * 5000: "?", "-1": "?"}
        self.server.answers["admit"] = {"error": "No key was admitted.", "mistakes": mistakes}
        client = FleetClient(str(self.path))
        error = self.assertRaises(KeysRefused, client.post, "admit")
        self.assertEqual(error.mistakes, {3: "This key is named twice."})

    def pages(self, *answers: Any) -> list[int | None]:
        """Return the numbers of all pages."""
        self.server.answers["boxes"] = list(answers)
        found = FleetClient(str(self.path)).pages("boxes", "boxes", "after", limit=2)
        return [each.integer("id") for each in found]

    def test_pages(self) -> None:
        """Each page is asked for after the last item of the one before."""
        found = self.pages(
            {"boxes": [{"id": 1}, {"id": 4}], "more": True}, {"boxes": [{"id": 9}], "more": False}
        )
        self.assertEqual(found, [1, 4, 9])
        queries = [query for _, query in self.server.asked]
        self.assertEqual(queries, [{"limit": "2"}, {"limit": "2", "after": "4"}])

    def test_endless_pages(self) -> None:
        """A server that gives the same page again and again is none."""
        page = {"boxes": [{"id": 1}], "more": True}
        error = self.assertRaises(FleetFailed, self.pages, page, page)
        self.assertIn("does not answer as an update server does", str(error))
        error = self.assertRaises(FleetFailed, self.pages, {"boxes": [{}], "more": True})
        self.assertIn("does not answer as an update server does", str(error))


class HostileTests(ClientCase):
    """What answers instead of a server."""

    def test_absent(self) -> None:
        """A path without a socket, or with one that nobody listens at, is told."""
        file = Path(self.mktemp())
        file.touch()
        for path in ("/nowhere/fleet.sock", str(file), "x" * 200, ""):
            error = self.assertRaises(FleetFailed, FleetClient(path).get, "status")
            self.assertIn(f"No update server listens at {path} (", str(error))
            self.assertIn("--socket", str(error))
        self.server.close()
        self.assertIn("(Connection refused)", self.refusal())

    def test_forbidden(self) -> None:
        """A user who may not use the socket learns who may."""
        if os.getuid() == 0:
            # The folder is root's alone.
            os.seteuid(65534)
            self.addCleanup(os.seteuid, 0)
        else:
            self.path.chmod(0)
        self.assertIn("only root, the server's user and the members of its group", self.refusal())

    def test_silent(self) -> None:
        """A program that does not answer is waited for only so long."""
        self.server.raw = None
        self.assertIn("does not answer within 0 seconds", self.refusal(0.05))
        client = FleetClient(str(self.path), 0.05)
        error = self.assertRaises(FleetFailed, client.post, "hold")
        self.assertIn("opq-fleet audit shows whether the change was made", str(error))

    def test_drops(self) -> None:
        """A program that sends a byte now and then is waited for only so long, too."""
        self.server.raw, self.server.drop = _OK + b"X-A: ", b"a"
        refusal = self.refusal(0.2)
        self.server.drop = b""
        self.assertRegex(refusal, "does not answer (within|as)")

    def test_garbage(self) -> None:
        """What is not HTTP, not JSON, or no object of a server is told in the same sentence."""
        for raw in (
            b"SSH-2.0-OpenSSH_9.2\r\n",
            _OK + b"Content-Length: x\r\n\r\n",
            _OK + b"Content-Length: 100\r\n\r\n{",
            _OK + b"Content-Length: 2\r\n\r\n[]",
            _OK + b"Content-Length: 3\r\n\r\nNaN",
            _OK + b"\r\n" + b"[" * 100_000,
            _OK + b"\r\n" + b"\xff" * 1000,
            b"HTTP/1.1 404 X\r\nContent-Length: 5\r\n\r\nNone\n",
            b"HTTP/1.1 500 X\r\nContent-Length: 2\r\n\r\n{}",
            b'HTTP/1.1 500 X\r\nContent-Length: 13\r\n\r\n{"error": []}',
            b"HTTP/1.1 200 X\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
        ):
            self.server.raw = raw
            self.assertIn("does not answer as an update server does", self.refusal())

    def test_gone(self) -> None:
        """A server that ends in the middle of an answer is told."""
        self.server.raw = b"\n"
        self.assertIn("does not answer as an update server does", self.refusal())
