"""The OpenAPI descriptions in docs/openapi say what the running programs do."""

import base64
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest_twisted
import schemathesis
from schemathesis.specs.openapi import checks
from twisted.internet.threads import deferToThread

from opq_twisted.archive.name import UpdateName
from opq_twisted.fleet.reports.rate_limit import BURST
from opq_twisted.http.guards.password import PasswordHash
from opq_twisted.report.document import MAX_SIZE
from opq_twisted.report.signature import sign as sign_report
from tests.functional import box as boxes
from tests.functional.box import OLD, Box, Gate
from tests.functional.conftest import StartDaemon
from tests.functional.processes import ROOT, TIMEOUT, Server, curl, succeed, until
from tests.functional.update_server import archive, started
from tests.helpers.archives import make_pieces_archive, random_parts
from tests.helpers.reporting_box import ReportingBox, attempt
from tests.helpers.signed_metadata import Signed, write_key
from tests.helpers.torture import SEED, TORTURE

SERVER = ROOT / "docs" / "openapi" / "update-server.yaml"
AGENT = ROOT / "docs" / "openapi" / "box-agent.yaml"

#: The version in the examples of the description, so that these find an archive.
VERSION = 1547860803
NAME = {"name": str(UpdateName(VERSION))}
METADATA = {"name": "timestamp.json"}
BROWSER = {"Accept": "text/html"}


# Without this, only JSON is compared with its schema.
schemathesis.deserializer("text/*")(lambda _, response: response.content.decode())


class Description:
    """A description, and the documented responses that a program has given."""

    def __init__(self, path: Path) -> None:
        self._schema = schemathesis.openapi.from_path(path)
        self._schema.validate()
        self.given: set[tuple[str, str, int]] = set()

    @property
    def documented(self) -> set[tuple[str, str, int]]:
        """The method, path and status of all responses."""
        return {
            (method, path, int(status))
            for path, operations in self._schema.raw_schema["paths"].items()
            for method, operation in operations.items()
            for status in operation["responses"]
        }

    async def describes(
        self, server: Server, status: int, method: str, path: str, **request: Any
    ) -> Any:
        """Send a request whose response must have this status, and be as described."""
        case = self._schema[path][method].Case(**request)

        def exchange() -> Any:
            # An event stream has no end: it is read for the duration of the timeout.
            response = case.call(base_url=server.url, timeout=1 if path == "/events" else TIMEOUT)
            assert response.status_code == status, response.content
            case.validate_response(
                response,
                checks=[
                    checks.status_code_conformance,
                    checks.content_type_conformance,
                    checks.response_headers_conformance,
                    checks.response_schema_conformance,
                ],
            )
            return response

        response = await deferToThread(exchange)
        self.given.add((method, path, status))
        return response


async def survives(description: Path, server: Server, folder: Path, *options: str) -> None:
    """Send valid, invalid and random requests; each response must be documented, and no 5xx."""
    await succeed(
        *(Path(sys.executable).with_name("st"), "run", description, "--url", server.url),
        *("--phases", "coverage,fuzzing" if TORTURE else "coverage", "--max-examples", 200),
        *("--seed", SEED, "--generation-database", "none", "--no-color", "--no-shrink"),
        # A valid request may well have another status: the archive is not there, a condition fails.
        *("--exclude-checks", "positive_data_acceptance", "--request-timeout", 60, *options),
        folder=folder,
    )


async def sign(start: StartDaemon, updates: Path, *options: object) -> Server:
    """Start a server with a signed release, and wait until it has announced it."""
    signed = Signed(updates).init()
    path = make_pieces_archive(updates / str(UpdateName(VERSION)), VERSION, random_parts(1, 2))
    signed.publish(1, path)
    key = write_key(updates.parent / "timestamp.pem", signed.keys["timestamp"])
    server = await started(start, updates, "--timestamp-key", key, *options)
    version = f"{server.url}/version"
    await until(lambda: curl("-D", "-", version), lambda answer: f'"{VERSION}-' in answer[1])
    return server


Describes = Callable[..., Awaitable[Any]]


async def send_report(
    describes: Describes, server: Server, status: int, box: ReportingBox, /, **changes: Any
) -> None:
    """Send the next report of a box, with these changes of its JSON and of the headers."""
    headers = changes.pop("headers", {})
    content = {**json.loads(box.send().body), **changes}
    # As the client writes it.
    headers = {"Opq-Signature": sign_report(box.private, json.dumps(content).encode()), **headers}
    await describes(server, status, "post", "/report", body=content, headers=headers)


async def describes_reports(describes: Describes, server: Server, database: Path) -> None:
    """Send reports that are stored, and others."""
    box = ReportingBox(attempts=(attempt(stage="idle", outcome="updated"),))
    await send_report(describes, server, 200, box)
    await send_report(describes, server, 200, box, seq=2)
    await send_report(describes, server, 409, box, seq=2, box=8)
    await send_report(describes, server, 400, box, seq=-1)
    await send_report(describes, server, 401, ReportingBox(pubkey=None))
    forged = {"Opq-Signature": ReportingBox().send().signature}
    await send_report(describes, server, 401, box, headers=forged)
    await send_report(describes, server, 413, box, more="x" * MAX_SIZE)
    home = {"X-Forwarded-For": "192.0.2.7"}
    for _ in range(BURST):
        await describes(server, 400, "post", "/report", body={}, headers={**forged, **home})
    await send_report(describes, server, 429, box, headers=home)
    moved = database.rename(database.with_name("moved"))
    await send_report(describes, server, 503, box)
    moved.rename(database)


@pytest_twisted.ensureDeferred
async def test_update_server(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """Each documented response of the update server is as described."""
    description = Description(SERVER)
    describes = description.describes
    database = tmp_path / "fleet.db"
    fleet = ("--fleet-db", f"sqlite:///{database}", "--fleet-socket", tmp_path / "fleet.sock")
    server = await sign(start, updates, *fleet)
    index = f"{server.url}/update/{NAME['name']}.pieces"
    await until(lambda: curl(index), lambda answer: answer[0] == 200)
    # A condition that matches would wait for minutes.
    await survives(SERVER, server, tmp_path, "--header", "Prefer: wait=1")
    await describes(server, 200, "get", "/")
    led = await describes(server, 200, "get", "/", headers=BROWSER)
    assert led.headers["refresh"]
    for media_type in ("text/plain", "application/json", "text/html"):
        headers = {"Accept": media_type}
        listed = await describes(server, 200, "get", "/ls", headers=headers, query={"before": "9"})
        assert listed.headers["content-type"][0].startswith(media_type)

    tag = (await describes(server, 200, "get", "/version")).headers["etag"][0]
    waits = {"If-None-Match": tag, "Prefer": "wait=1"}
    waited = await describes(server, 304, "get", "/version", headers=waits)
    assert waited.headers["preference-applied"] == ["wait=1"]
    await describes(server, 412, "get", "/version", headers={"If-Match": '"1"'})
    await describes(server, 303, "get", "/latest")

    async def describes_archive(status: int, name: dict[str, str] = NAME, **headers: str) -> None:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        path = "/update/{name}"
        await describes(server, status, "get", path, path_parameters=name, headers=headers)

    await describes_archive(200)
    await describes_archive(206, Range="bytes=1-9")
    await describes_archive(206, Range="bytes=1-9,11-19")
    await describes_archive(304, If_None_Match="*")
    await describes_archive(404, {"name": str(UpdateName(1))})
    await describes_archive(412, If_Match='"1"')
    await describes_archive(416, Range="bytes=999999999-")

    async def describes_index(status: int, name: dict[str, str] = NAME, **headers: str) -> None:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        path = "/update/{name}.pieces"
        await describes(server, status, "get", path, path_parameters=name, headers=headers)

    older = {"name": archive(updates, 2).name}
    await until(lambda: curl(f"{server.url}/ls"), lambda answer: older["name"] in answer[1])
    await describes_index(200)
    await describes_index(304, If_None_Match="*")
    await describes_index(412, If_Match='"1"')
    await describes_index(503, older)
    await until(
        lambda: curl(f"{server.url}/update/{older['name']}.pieces"),
        lambda answer: answer[0] == 404,
    )
    await describes_index(404, older)
    (updates / older["name"]).unlink()

    tuf = "/tuf/{name}"
    for name in (METADATA, {"name": "1.root.json"}):
        await describes(server, 200, "get", tuf, path_parameters=name)
    headers = {"If-None-Match": "*"}
    await describes(server, 304, "get", tuf, path_parameters=METADATA, headers=headers)
    headers = {"If-Match": '"1"'}
    await describes(server, 412, "get", tuf, path_parameters=METADATA, headers=headers)
    await describes(server, 404, "get", tuf, path_parameters={"name": "2.root.json"})
    await describes(server, 200, "get", "/metrics")
    await describes(server, 403, "get", "/metrics", headers={"X-Forwarded-For": "192.0.2.1"})

    await describes_reports(describes, server, database)
    mirror = await started(start, updates, "--mirror", "http://mirror.example")
    await send_report(describes, mirror, 404, ReportingBox())
    fleet = ("--fleet-db", f"sqlite:///{tmp_path}/2.db", "--fleet-socket", tmp_path / "2.sock")
    closed = await started(start, updates, *fleet, "--enrol", "closed")
    await send_report(describes, closed, 403, ReportingBox())
    await describes(mirror, 307, "get", "/update/{name}", path_parameters=NAME)
    await describes(mirror, 303, "get", "/latest")

    (updates / NAME["name"]).unlink()
    await until(lambda: curl(f"{server.url}/ls"), lambda answer: answer[1] == "")
    await describes(server, 404, "get", "/version")
    await describes(server, 404, "get", "/latest")
    updates.rename(tmp_path / "gone")
    await until(lambda: curl(f"{server.url}/"), lambda answer: answer[0] == 503)
    await describes(server, 503, "get", "/")

    assert "Traceback" not in server.output
    # A machine that is too busy is tested in test_overload.py.
    busy = {("get", "/update/{name}", 503), ("get", "/tuf/{name}", 503)}
    assert description.documented - description.given == busy


ACTIONS = (
    ("post", "/box_update"),
    ("get", "/box_update"),
    ("post", "/check"),
    ("post", "/forgive"),
)


@pytest_twisted.ensureDeferred
async def test_agent(
    start: StartDaemon, box: Box, updates: Path, gate: Gate, tmp_path: Path
) -> None:
    """Each documented response of a box is as described."""
    description = Description(AGENT)
    describes = description.describes
    boxes.archive(updates, OLD)
    password = box.config.with_name("password")
    password.write_text(str(PasswordHash.of("sesame")))
    server = await started(start, updates)
    await box.start_with(server.url, web_password_file=str(password))
    agent = box.agent
    known = {"Authorization": "Basic " + base64.b64encode(b"owner:sesame").decode()}
    program = {**known, "User-Agent": "curl/8"}

    async def acts(status: int, method: str, path: str, release: object = OLD, **more: str) -> None:
        form = {"body": {"release": release}} if path == "/forgive" else {}
        await describes(agent, status, method, path, headers={**program, **more}, **form)

    # An event stream would be read until the timeout.
    options = (
        "--exclude-path",
        "/events",
        "--auth",
        "owner:sesame",
        "--header",
        "User-Agent: curl/8",
    )
    await survives(AGENT, agent, tmp_path, *options)
    for path in ("/", "/page.css", "/page.js", "/icon.svg", "/version", "/status", "/events"):
        await describes(agent, 200, "get", path)
    for path in ("/history", "/report", "/log"):
        await describes(agent, 200, "get", path)
    for method, path, _ in description.documented:
        await describes(agent, 403, method, path, headers={"Host": "rebinding.example"})

    for method, path in ACTIONS:
        await acts(401, method, path, Authorization="")
    for method, path in ACTIONS:
        if method == "post":
            await acts(303, method, path, **BROWSER)
    await acts(200, "post", "/check")
    await acts(200, "post", "/box_update")
    await acts(200, "get", "/box_update")

    boxes.archive(updates, OLD + 1, b"#!/bin/sh\n" + gate.wait.encode() + b"echo no; exit 3\n")
    for method in ("post", "get"):
        await acts(202, method, "/box_update")
        await box.shows(lambda status: status["stage"] == "installing")
        await acts(409, "post", "/box_update")
        await acts(409, "get", "/box_update")
        await describes(agent, 200, "get", "/status")
        gate.open()
        await box.shows(lambda status: status["stage"] == "failed")
    # Before the script has run, the box has reported that to a server without a fleet.
    for path in ("/status", "/history", "/report", "/log"):
        await describes(agent, 200, "get", path)
    await describes(agent, 206, "get", "/log", headers={"Range": "bytes=1-"})
    await describes(agent, 416, "get", "/log", headers={"Range": "bytes=999999999-"})
    await acts(400, "post", "/forgive", "newest")
    await acts(404, "post", "/forgive")
    await acts(200, "post", "/forgive", OLD + 1)

    await server.stop()
    await acts(502, "post", "/check")
    box.log.unlink()
    box.log.mkdir()
    await describes(agent, 500, "get", "/log")

    assert "Traceback" not in agent.output
    # Many clients at once are tested in tests/unit/box/web.
    crowd = {(method, path, 503) for method, path in (("get", "/events"), *ACTIONS)}
    assert description.documented - description.given == crowd
