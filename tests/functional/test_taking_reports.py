"""The update server takes reports of boxes, whatever is sent, and whatever its database does."""

import json
import socket
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest_twisted
from attrs import evolve, frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from opq_twisted.cli.fleet.migrate import migrate
from opq_twisted.fleet.reports.incoming import Incoming
from opq_twisted.report.document import MAX_SIZE
from opq_twisted.report.signature import sign
from tests.functional.conftest import WITH_POSTGRES, StartDaemon
from tests.functional.fleet import Reply, send_report
from tests.functional.processes import TIMEOUT, Server, get, until
from tests.functional.update_server import archive, metrics, offers, started
from tests.helpers.postgres import Postgres
from tests.helpers.reporting_box import NEW, ReportingBox, attempt

VERSION = 1547860803


@frozen
class FleetServer:
    """A server, and its database."""

    server: Server
    database: Path

    async def takes(self, report: Incoming, **headers: str) -> Reply:
        """Send a report."""
        return await send_report(self.server.url, report, **headers)

    async def results(self) -> dict[str, float]:
        """Return how many reports were answered, by result."""
        found = await metrics(self.server)
        return {key[1]: found[key] for key in found if key[0] == "opq_reports_total"}

    def rows(self) -> tuple[list[Any], list[Any]]:
        """Return what is stored: boxes and attempts."""
        with sqlite3.connect(self.database) as store:
            boxes = store.execute("SELECT box_id, seq, key_id FROM box ORDER BY box_id, key_id")
            attempts = store.execute("SELECT release, outcome FROM attempt ORDER BY attempt_id")
            return boxes.fetchall(), attempts.fetchall()


async def start_fleet(
    start: StartDaemon, updates: Path, folder: Path, *options: object
) -> FleetServer:
    """Start a server with a database of its own."""
    database = folder / "fleet.db"
    fleet = ("--fleet-db", f"sqlite:///{database}", "--fleet-socket", folder / "fleet.sock")
    return FleetServer(await started(start, updates, *fleet, *options), database)


def statuses(replies: Sequence[Reply]) -> list[int]:
    return [each.status for each in replies]


@pytest_twisted.ensureDeferred
async def test_stored(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """A report is stored once; the same bytes again are no error, and other bytes are one."""
    fleet = await start_fleet(start, updates, tmp_path)
    box = ReportingBox()
    ended = attempt(outcome="updated", stage="idle")
    report = box.send(attempts=(ended,))
    for _ in "12":
        reply = await fleet.takes(report)
        assert reply.status == 200
        assert json.loads(reply.body) == {"seq": 1, "done": [ended.id]}
    reply = await fleet.takes(box.sign(evolve(report.report, box=8)))
    assert (reply.status, json.loads(reply.body)) == (409, {"seq": 1})
    assert fleet.rows() == ([(7, 1, box.key)], [(NEW, "updated")])
    assert await fleet.results() == {"stored": 1, "replayed": 1, "sequence": 1}
    # Another process finds all that was acknowledged.
    await fleet.server.stop()
    fleet = await start_fleet(start, updates, tmp_path)
    assert statuses([await fleet.takes(report), await fleet.takes(box.send())]) == [200, 200]


@pytest_twisted.ensureDeferred
async def test_bad_input(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """Each report that is refused is counted, changes nothing, and is not in the log."""
    fleet = await start_fleet(start, updates, tmp_path)
    box, other = ReportingBox(), ReportingBox(7)
    first = box.send()
    await fleet.takes(first)
    before = fleet.rows()

    def raw(content: bytes) -> Incoming:
        return evolve(first, body=content)

    def changed(**fields: Any) -> Incoming:
        return raw(json.dumps({**json.loads(first.body), "seq": 2, **fields}).encode())

    expected = {"stored": 1}
    for status, result, report in (
        (413, "", raw(first.body + b" " * (MAX_SIZE + 1 - len(first.body)))),
        (400, "malformed", raw(b"seq=1")),
        (400, "malformed", raw(b"[" * MAX_SIZE)),
        (400, "malformed", raw(b'{"a":' * 3000)),
        (400, "malformed", raw(b'{"seq": ' + b"9" * 16_000 + b"}")),
        (400, "malformed", raw(first.body.replace(b'"seq":1', b'"seq":NaN'))),
        (400, "malformed", changed(seq="1")),
        (400, "malformed", changed(format=2)),
        (400, "malformed", changed(seq=2**70)),
        (400, "malformed", changed(channel="'; DROP TABLE box; --")),
        (400, "malformed", changed(agent="<script>alert(1)</script>")),
        (400, "malformed", changed(attempts=[{}] * 21)),
        (400, "malformed", evolve(first, signature="sesame")),
        (401, "forged", changed()),
        (401, "forged", evolve(box.send(), signature=other.send().signature)),
        (401, "unknown-key", ReportingBox(pubkey=None).send()),
        (409, "sequence", box.send(seq=2**50)),
    ):
        reply = await fleet.takes(report)
        assert reply.status == status, (reply, report.body[:200])
        if result:
            expected[result] = expected.get(result, 0) + 1
        assert fleet.rows() == before
        for word in ("script", "DROP", "sesame"):
            assert word not in reply.body.decode()
    assert await fleet.results() == expected
    assert (await metrics(fleet.server))["opq_requests_total", "refused", "413"] == 1
    # What is odd, but well formed, is stored: fields of the future, and wrong clocks.
    box.report = evolve(box.report, seq=1)
    odd = [attempt(began=0), attempt(began=4102444800, took=2**53 - 1)]
    assert (await fleet.takes(box.send(attempts=(*odd,)))).status == 200
    signed = json.dumps({**json.loads(box.send().body), "mood": ["?"]}).encode()
    future = evolve(first, body=signed, signature=sign(box.private, signed))
    assert (await fleet.takes(future)).status == 200
    for word in ("DROP", "script", "sesame", box.key, "Traceback"):
        assert word not in fleet.server.output


@pytest_twisted.ensureDeferred
async def test_slow_and_lying_clients(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """Clients that go away, or send less or more than they announce, leave nothing behind."""
    fleet = await start_fleet(start, updates, tmp_path)
    box = ReportingBox()

    def request(length: int, *headers: str) -> bytes:
        report = box.send()
        lines = [
            *("POST /report HTTP/1.1", "Host: x", f"Content-Length: {length or len(report.body)}"),
            *(f"Opq-Signature: {report.signature}", *headers),
        ]
        return "\r\n".join([*lines, "", ""]).encode() + report.body

    def send(data: bytes, *, wait: bool = True) -> bytes:
        with socket.create_connection(("127.0.0.1", fleet.server.port), TIMEOUT) as client:
            client.sendall(data)
            received = b""
            while wait and (more := client.recv(65536)):
                received += more
            return received

    # Less than announced: the rest does not come.
    await deferToThread(send, request(MAX_SIZE), wait=False)
    # More than announced: the rest is another request, and none at all.
    answer = await deferToThread(send, request(100) + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 2
    # Sent and left.
    await deferToThread(send, request(0), wait=False)
    await until(fleet.results, lambda found: found.get("stored") == 1)
    # Many at once on one connection.
    many = b"".join(request(0) for _ in range(20)) + request(0, "Connection: close")
    answer = await deferToThread(send, many)
    assert answer.count(b"HTTP/1.1 200 ") == 21
    assert fleet.rows()[0] == [(7, box.report.seq, box.key)]


@pytest_twisted.ensureDeferred
async def test_database_away(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """While the database is gone, reports get 503, all else goes on, and nothing is lost."""
    archive(updates, VERSION)
    fleet = await start_fleet(start, updates, tmp_path)
    server = fleet.server
    await offers(server, VERSION)
    boxes = [ReportingBox(number) for number in range(10)]
    assert statuses([await fleet.takes(each.send()) for each in boxes]) == [200] * 10
    before = fleet.rows()
    gone = fleet.database.rename(tmp_path / "gone")
    reports = [each.send() for each in boxes]
    replies = await gatherResults([Deferred.fromCoroutine(fleet.takes(each)) for each in reports])
    assert statuses(replies) == [503] * 10
    assert all(10 <= int(each.headers["Retry-After"]) <= 60 for each in replies)
    found = await metrics(server)
    assert found["opq_fleet_store_up",] == 0
    assert found["opq_reports_total", "store-away"] == 10
    assert await get(f"{server.url}/version") == str(VERSION).encode()
    assert len(await get(f"{server.url}/update/opq-box-update-{VERSION}.tar.bz2")) > 100
    gone.rename(fleet.database)
    assert fleet.rows() == before

    async def takes() -> Reply:
        return await fleet.takes(reports[0])

    await until(takes, lambda reply: reply.status == 200)
    assert statuses([await fleet.takes(each) for each in reports]) == [200] * 10
    assert [seq for _, seq, _ in fleet.rows()[0]] == [2] * 10
    assert (await metrics(server))["opq_fleet_store_up",] == 1
    assert server.output.count("Reports get 503 for now.") == 1
    assert "Traceback" not in server.output


@WITH_POSTGRES
@pytest_twisted.ensureDeferred
async def test_postgresql_away(
    start: StartDaemon, updates: Path, tmp_path: Path, postgres: Postgres
) -> None:
    """A server starts without its PostgreSQL, and uses it when it is there, also after a crash."""
    archive(updates, VERSION)
    url = postgres.url(postgres.new_database())
    migrate(url)
    await deferToThread(postgres.stop)
    server = await started(start, updates, "--fleet-db", url, "--fleet-socket", tmp_path / "sock")
    fleet = FleetServer(server, tmp_path)
    assert "Reports are refused until the database can be used." in server.output
    await offers(server, VERSION)
    box = ReportingBox()

    async def takes() -> Reply:
        return await fleet.takes(box.sign(box.report))

    for stop in (postgres.kill, postgres.stop):
        report = box.send()
        assert (await fleet.takes(report)).status == 503
        await deferToThread(postgres.start)
        await until(takes, lambda reply: reply.status == 200)
        assert (await fleet.takes(box.send())).status == 200
        await deferToThread(stop)
    assert (await fleet.takes(box.send())).status == 503
    assert await get(f"{server.url}/version") == str(VERSION).encode()
    await deferToThread(postgres.start)
    await until(takes, lambda reply: reply.status == 200)
    assert "Traceback" not in server.output
