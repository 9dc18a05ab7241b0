"""opq-fleet with a real server: every command, who may use it, and sockets in the way."""

import csv
import getpass
import io
import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
import pytest_twisted
from attrs import frozen

from opq_twisted.fleet.reports.incoming import Incoming
from opq_twisted.trust.pace import ALL, HELD, Pace
from tests.functional.conftest import StartDaemon
from tests.functional.processes import Server, require_root, run
from tests.functional.test_pace import RELEASE, Site
from tests.functional.test_taking_reports import FleetServer
from tests.helpers.reporting_box import ReportingBox, attempt

PROGRAM = str(Path(sys.executable).with_name("opq-fleet"))

#: SQL, HTML and the sequences of a terminal.
HOSTILE = "'; DROP TABLE box; -- <script>alert(1)</script>"


@frozen
class Fleet:
    """A server with a signed release, a database, and a socket."""

    site: Site
    socket: Path

    async def starts(self, *options: object) -> None:
        """Start the server."""
        await self.site.starts(*options)

    async def takes(self, report: Incoming) -> None:
        """Send a report, which the server stores."""
        reply = await FleetServer(self.site.server, self.site.database).takes(report)
        assert reply.status == 200, reply

    async def run(self, *arguments: object) -> tuple[int, str, str]:
        """Run a command."""
        return await run(PROGRAM, *map(str, arguments), "--socket", str(self.socket))

    async def says(self, *arguments: object, code: int = 0) -> str:
        """Run a command that ends with a code; returns its output."""
        status, out, error = await self.run(*arguments)
        assert (status, error) == (code, ""), (status, out, error)
        return out

    async def json(self, *arguments: object, code: int = 0) -> list[Any]:
        """Run a command with --json; returns the values of all lines."""
        out = await self.says(*arguments, "--json", code=code)
        return [json.loads(line) for line in out.splitlines()]

    async def refuses(self, *arguments: object) -> str:
        """Run a command that fails; returns the sentence."""
        status, out, error = await self.run(*arguments)
        assert (status, out) == (1, ""), (status, out, error)
        assert error.startswith("opq-fleet: ")
        assert "Traceback" not in error
        return error


@pytest.fixture
def fleet(start: StartDaemon, updates: Path) -> Iterator[Fleet]:
    site = Site(start, updates)
    # The path of a socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="opq-", dir="/tmp"))
    folder.chmod(0o755)
    site.socket = folder / "fleet.sock"
    yield Fleet(site, site.socket)
    rmtree(folder)


async def reported(fleet: Fleet) -> tuple[ReportingBox, ReportingBox]:
    """Let two boxes report: one has updated, the other one went back."""
    good, bad = ReportingBox(7), ReportingBox(31)
    updated = attempt(release=RELEASE, outcome="updated", stage="idle")
    returned = attempt(release=RELEASE, outcome="returned", stage="idle", reason="rescued")
    await fleet.takes(good.send(release=RELEASE, attempts=(updated,)))
    await fleet.takes(bad.send(release=1, waiting="refused", attempts=(returned,)))
    return good, bad


@pytest_twisted.ensureDeferred
async def test_reading(fleet: Fleet) -> None:
    """All that boxes report is shown, to people and to programs."""
    await fleet.starts()
    good, bad = await reported(fleet)
    out = await fleet.says("status")
    assert "2 boxes tried it, 1 of them badly (50 %)" in out
    assert "1  returned (rescued), counts as bad" in out
    assert "1 box blocking the offered release: 31" in out
    assert max(map(len, out.splitlines())) <= 80
    (status,) = await fleet.json("status")
    assert [(each["release"], each["bp"]) for each in status["channels"]] == [(RELEASE, ALL)]
    assert (status["boxes"], status["held"]) == (2, False)
    assert good.key[:12] in await fleet.says("boxes", "--release", RELEASE)
    found = await fleet.json("boxes", "--waiting", "refused")
    assert [each["key_id"] for each in found] == [bad.key]
    assert bad.key in await fleet.says("box", 31)
    (box,) = await fleet.json("box", bad.key)
    assert [each["reason"] for each in box["attempts"]] == ["rescued"]
    assert str(RELEASE) in await fleet.says("releases")
    assert len(await fleet.json("releases")) == 1
    assert f"box 31 ({bad.key[:12]}): returned (rescued)" in await fleet.says("release", RELEASE)
    (release,) = await fleet.json("release", RELEASE)
    assert release["boxes"] == 1
    rows = list(csv.DictReader(io.StringIO(await fleet.says("export", "boxes"))))
    assert {each["key_id"] for each in rows} == {good.key, bad.key}
    found = await fleet.json("export", "attempts")
    assert {each["outcome"] for each in found} == {"updated", "returned"}
    assert "There is no box or key 8." in await fleet.refuses("box", 8)


@pytest_twisted.ensureDeferred
async def test_pace(fleet: Fleet) -> None:
    """A held release is in the timestamp, is told by the exit code, and is audited."""
    await fleet.starts()
    me = getpass.getuser()
    out = await fleet.says("hold", RELEASE, "--because", HOSTILE)
    assert "is held (at 100 % before)" in out
    assert "This server signs a new timestamp now" in out
    await fleet.site.paces(Pace(RELEASE, ALL, HELD))
    for command in (("status",), ("releases",), ("release", RELEASE)):
        assert "held" in await fleet.says(*command, code=10)
    assert "is held already" in await fleet.refuses("hold", RELEASE, "--because", "x")
    await fleet.says("resume", RELEASE, "--at", "5", "--because", "the servers were down")
    await fleet.site.paces(Pace(RELEASE, 500))
    (widened,) = await fleet.json("widen", RELEASE, "--to", "20", "--because", "all is well")
    assert (widened["bp"], widened["signs_here"]) == (2000, True)
    await fleet.site.paces(Pace(RELEASE, 2000))
    await fleet.says("status")
    changes = await fleet.json("audit")
    assert [(each["who"], each["what"], each["because"]) for each in changes] == [
        (me, "widen", "all is well"),
        (me, "resume", "the servers were down"),
        (me, "hold", HOSTILE),
    ]
    assert HOSTILE in await fleet.says("audit")


@pytest_twisted.ensureDeferred
async def test_keys(fleet: Fleet, tmp_path: Path) -> None:
    """Keys are admitted, turned away and forgotten; their reports are answered accordingly."""
    await fleet.starts("--enrol", "closed")
    server = FleetServer(fleet.site.server, fleet.site.database)
    box, new = ReportingBox(7), ReportingBox(7)
    assert (await server.takes(box.send())).status == 403
    file = tmp_path / "keys.csv"
    file.write_text(f"box_id,fingerprint\n7,{box.key}\n")
    assert "Admitted: 1 key." in await fleet.says("admit", file, "--because", "made here")
    await fleet.takes(box.send(attempts=(attempt(),)))
    file.write_text(f"7,{new.key}\n")
    out = await fleet.says("admit", file, "--because", "a new card")
    assert "They replace 1 older key." in out
    await fleet.takes(new.send())
    file.write_text(f"8,{new.key}\n7,{box.key}\n")
    status, _, error = await fleet.run("admit", file, "--because", "x")
    assert (status, "line 1: This key has sent reports of box 7." in error) == (1, True)
    assert new.key in await fleet.says("distrust", new.key[:12], "--because", "stolen")
    assert (await server.takes(new.send())).status == 403
    assert "Deleted: 2 keys and 1 attempt." in await fleet.says("forget", 7, "--because", "sold")
    assert await fleet.json("boxes", "--state", "any") == []
    assert [each["what"] for each in await fleet.json("audit")] == [
        "forget",
        "distrust",
        "admit",
        "admit",
    ]
    assert box.key not in await fleet.says("audit")


@pytest_twisted.ensureDeferred
async def test_away(fleet: Fleet) -> None:
    """While the database is away, each command says so, and nothing is changed."""
    await fleet.starts()
    database = fleet.site.database
    database.rename(database.with_suffix(".away"))
    for command in (("status",), ("hold", RELEASE, "--because", "x"), ("export", "attempts")):
        status, _, error = await fleet.run(*command)
        assert (status, f"{database} is missing" in error) == (1, True), error
    database.with_suffix(".away").rename(database)
    assert "Nobody has changed anything yet." in await fleet.says("audit")


@pytest.mark.root
@pytest_twisted.ensureDeferred
async def test_users(fleet: Fleet) -> None:
    """Only members of the socket's group get in, and the audit names them."""
    require_root()
    await fleet.starts()
    assert oct(fleet.socket.stat().st_mode & 0o777) == "0o660"
    body = json.dumps({"release": RELEASE, "because": "it hurts"})
    hold = ("curl", "-sS", "--unix-socket", fleet.socket, "--data", body, "http://localhost/hold")
    stranger = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    status, _, error = await run(*map(str, (*stranger, *hold)))
    assert (status, "connect" in error) == (7, True), error
    member = ("setpriv", "--reuid=65534", f"--regid={os.getgid()}", "--clear-groups")
    status, out, _ = await run(*map(str, (*member, *hold)))
    assert (status, json.loads(out)["state"]) == (0, "held")
    assert [each["who"] for each in await fleet.json("audit")] == ["nobody"]


@pytest_twisted.ensureDeferred
async def test_socket(fleet: Fleet, start: StartDaemon, updates: Path) -> None:
    """The socket of a dead server is replaced, that of a live one is not; a stop removes it."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(fleet.socket))
    await fleet.starts()
    await fleet.says("status")
    await second(start, updates, fleet.socket).refuses_to_start(
        f"Another program uses {fleet.socket}: stop it, or name another one with --fleet-socket."
    )
    await fleet.says("status")
    await fleet.site.server.stop()
    assert not fleet.socket.exists()
    assert "No update server listens at" in await fleet.refuses("status")


@pytest_twisted.ensureDeferred
async def test_no_socket(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """A socket that cannot be made ends the server with a sentence."""
    for path, sentence in (
        (tmp_path / "missing" / "s", f"The folder {tmp_path}/missing of the fleet's socket is"),
        (updates, f"{updates} is not a socket"),
        (tmp_path / ("x" * 120), "the path of a socket has at most 107 bytes"),
    ):
        await second(start, updates, path).refuses_to_start(sentence, "--fleet-socket")


def second(start: StartDaemon, updates: Path, path: Path) -> Server:
    """Start a server with a database of its own."""
    database = f"sqlite:///{updates.with_name('second.db')}"
    options = ("--fleet-db", database, "--fleet-socket", path)
    return start("opq-update-server", "--updates-dir", updates, *options)
