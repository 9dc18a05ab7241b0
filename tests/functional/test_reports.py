"""What a box tells the update server about itself: a real agent, and a server that records it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import frozen
from twisted.internet.threads import deferToThread

from opq_twisted.archive.name import UpdateName
from opq_twisted.report.document import Report
from opq_twisted.report.parse import parse
from opq_twisted.report.signature import HEADER, is_signed, key_id
from tests.functional.box import INSTALL, OLD, Answer, Box, RawServer, archive, http
from tests.functional.processes import TIMEOUT, curl, eventually

NEW = 1600000000
OPQ_BOX = str(Path(sys.executable).with_name("opq-box"))


@frozen
class Received:
    """A report that the server has accepted."""

    report: Report
    #: The JSON, as it was received.
    body: str


class ReportServer(RawServer):
    """Offers releases, verifies reports, and stores those of known keys."""

    def __init__(self) -> None:
        super().__init__()
        #: The requests with reports, also those that were not accepted.
        self.tried = 0
        self.received: list[Received] = []
        #: The public keys, by their ids.
        self.keys: dict[str, bytes] = {}

    def offer(self, folder: Path, version: int, script: bytes = INSTALL) -> None:
        """Offer a release with this script."""
        path = archive(folder, version, script)
        self.answers["/version"] = Answer(http(str(version).encode()))
        self.answers[f"/update/{UpdateName(version)}"] = Answer(http(path.read_bytes()))

    def take_report(self, request: bytes) -> Answer:
        """Answer a report as the update server does."""
        self.tried += 1
        head, _, body = request.partition(b"\r\n\r\n")
        assert head.startswith(b"POST /report HTTP/1.1\r\n")
        found = re.search(rf"(?i)\r\n{HEADER}: (\S+)".encode(), head)
        assert found is not None
        report = parse(body)
        if report.pubkey is not None:
            self.keys[key_id(bytes.fromhex(report.pubkey))] = bytes.fromhex(report.pubkey)
        if report.key not in self.keys:
            return Answer(http(b"{}", status="401 Unauthorized"))
        assert is_signed(self.keys[report.key], body, found[1].decode())
        assert report.seq > max((each.report.seq for each in self.received), default=0)
        self.received.append(Received(report, body.decode()))
        done = [each.id for each in report.attempts if each.outcome is not None]
        return Answer(http(json.dumps({"seq": report.seq, "done": done}).encode()))

    @property
    def outcomes(self) -> dict[str, list[tuple[str, str | None, str | None]]]:
        """What the reports said of each attempt: stage, outcome and reason."""
        said: dict[str, list[tuple[str, str | None, str | None]]] = {}
        for each in self.received:
            for attempt in each.report.attempts:
                words = (attempt.stage, attempt.outcome, attempt.reason)
                said.setdefault(attempt.id, []).append(words)
        return said


@pytest.fixture
def server() -> Iterator[ReportServer]:
    """Make a server that takes reports."""
    server = ReportServer()
    yield server
    pytest_twisted.blockon(server.close())


async def opq_box(box: Box, *arguments: str) -> str:
    """Run a command of opq-box, and return what it prints."""
    command = [OPQ_BOX, *arguments, "--url", box.agent.url]
    ended: subprocess.CompletedProcess[str] = await deferToThread(
        subprocess.run, command, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


async def shown(box: Box) -> dict[str, Any]:
    """Request what the box shows of its reports."""
    code, body = await curl(f"{box.agent.url}/report")
    assert code == 200
    content: dict[str, Any] = json.loads(body)
    return content


def reported(box: Box) -> list[bool]:
    """Read which attempts in the journal are acknowledged."""
    journal = json.loads((box.state_dir / "journal.json").read_text())
    return [each["reported"] for each in journal["attempts"]]


@pytest_twisted.ensureDeferred
async def test_update(box: Box, server: ReportServer, updates: Path) -> None:
    """An update is reported before it and after the reboot, as one attempt with one outcome."""
    server.offer(updates, NEW)
    await box.start_with(server.url, spread=0)
    assert (await opq_box(box, "report", "--show")).startswith("The box has sent no report")
    await box.click()
    await box.reboots_to(NEW)
    await eventually(lambda: len(server.received) == 2)

    before, after = (each.report for each in server.received)
    [key] = server.keys
    # The first report was refused, because the server did not know the key.
    assert server.tried == 3
    assert (before.seq, before.pubkey is None, after.pubkey) == (2, False, None)
    assert {before.key, after.key} == {key}
    assert (before.box, before.release, after.release) == (7, OLD, NEW)
    [attempts] = server.outcomes.values()
    assert attempts == [("installing", None, None), ("confirming", "updated", None)]
    [attempt] = after.attempts
    assert (attempt.release, attempt.previous, attempt.automatic) == (NEW, OLD, False)
    # It is not reported again: neither by this agent nor by the next one.
    await eventually(lambda: reported(box) == [True])

    status = await box.shows(lambda status: status["last_report"])
    assert (status["fingerprint"], status["report_answer"]) == (
        key,
        "The update server has accepted it.",
    )
    last = await shown(box)
    assert last["last"]["body"] == server.received[-1].body
    assert json.loads(await opq_box(box, "report", "--show")) == json.loads(last["last"]["body"])
    for said in (await opq_box(box, "status"), await opq_box(box, "report")):
        assert f"Fingerprint  {key}\n" in said
    _, page = await curl(f"{box.agent.url}/")
    assert f"<code>{key}</code>" in page
    assert f"  &quot;key&quot;: &quot;{key}&quot;,\n" in page


@pytest_twisted.ensureDeferred
async def test_failure(box: Box, server: ReportServer, updates: Path) -> None:
    """A failure is reported with its reason as a code, and nothing of what the script said."""
    server.offer(updates, NEW, b"#!/bin/sh\necho the secret of this house\nexit 3\n")
    await box.start_with(server.url, spread=0, name="Kitchen", enrol_token="open sesame")
    await box.click()
    await box.fails()
    await eventually(lambda: len(server.received) == 2)
    [attempts] = server.outcomes.values()
    assert attempts == [
        ("installing", None, None),
        ("installing", "failed", "install-status"),
    ]
    sent = "".join(each.body for each in server.received)
    for secret in ("secret", "Kitchen", "sesame", "127.0.0.1", str(box.state_dir)):
        assert secret not in sent
    assert server.received[0].report.proof is not None
    for text in (box.agent.output, await opq_box(box, "status"), str(await shown(box))):
        assert "sesame" not in text


@pytest_twisted.ensureDeferred
async def test_switched_off(box: Box, server: ReportServer, updates: Path) -> None:
    """A box that must not report makes no key, sends nothing, and updates as before."""
    server.offer(updates, NEW)
    await box.start_with(server.url, spread=0, report=False)
    await box.click()
    await box.reboots_to(NEW)
    assert server.tried == 0
    assert not (box.state_dir / "box.key").exists()
    assert await shown(box) == {"fingerprint": None, "last": None}
    assert "this box sends no reports" in await opq_box(box, "report")
    assert "Fingerprint" not in await opq_box(box, "status")
    _, page = await curl(f"{box.agent.url}/")
    assert "<p >This box sends no reports" in page


@pytest_twisted.ensureDeferred
async def test_no_fleet(box: Box, raw: RawServer, updates: Path) -> None:
    """A server that takes no reports is asked once, and the update goes on."""
    asked: list[bytes] = []

    def take_report(request: bytes) -> Answer:
        asked.append(request)
        return Answer(http(b"", status="404 Not Found"))

    raw.take_report = take_report  # type: ignore[method-assign]
    path = archive(updates, NEW, b"#!/bin/sh\nexit 3\n")
    raw.answers["/version"] = Answer(http(str(NEW).encode()))
    raw.answers[f"/update/{UpdateName(NEW)}"] = Answer(http(path.read_bytes()))
    await box.start_with(raw.url, spread=0)
    await box.click()
    await box.fails()
    await box.click()
    await box.fails(2)
    assert len(asked) == 1
    assert "takes no reports" in await opq_box(box, "report")


@pytest_twisted.ensureDeferred
async def test_hostile_answers(box: Box, server: ReportServer, updates: Path) -> None:
    """Whatever the server answers to the report, the release is installed."""
    server.offer(updates, NEW)
    answers = iter(
        [
            b"SSH-2.0-OpenSSH_9.2\r\n",
            http(b"", "Location: http://127.0.0.1:1/report", status="307 Temporary Redirect"),
            http(b'{"seq": 9007199254740991}', status="409 Conflict"),
            http(b"[" * 100_000),
        ]
    )
    server.take_report = lambda request: Answer(next(answers))  # type: ignore[method-assign]
    for _ in range(2):
        await box.start_with(server.url, spread=0)
        await box.click()
        await box.reboots_to(NEW)
        await box.shows(lambda status: status["last_report"])
        await box.agent.stop()
        box.install(OLD)
    assert next(answers, None) is None
    assert "Traceback" not in box.agent.output
