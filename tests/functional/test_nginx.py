"""More than one machine: Debian's nginx as a cache in front, mirrors, and several servers."""

import json
import os
import re
import shutil
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.tcp import Client
from twisted.internet.threads import deferToThread

from opq_twisted.archive.name import UpdateName
from opq_twisted.box.network.body import read_body
from opq_twisted.box.network.http_agent import make_http_clients
from opq_twisted.box.network.update_server import UpdateServerClient
from opq_twisted.http import channel
from opq_twisted.server.web import long_poll
from tests.functional import box
from tests.functional.box import RawServer, http
from tests.functional.conftest import StartDaemon
from tests.functional.nginx import SITE, Answer, ask, cached, fetch, in_front_of, use_tls
from tests.functional.processes import TIMEOUT, Server, run, until
from tests.functional.update_server import metrics, started
from tests.helpers.archives import (
    make_archive,
    make_large_archive,
    make_pieces_archive,
    random_parts,
)
from tests.helpers.certificates import make_certificate

#: The size in bytes of an archive that needs several writes.
LARGE = 6_000_000

#: The exit status of curl after an incomplete response.
CURL_CUT = 18

#: The requested ranges of an archive; None is the whole archive.
PARTS = ("1000000-1999999", None, "0-0", "-1000", None, "3000000-", "5999000-9999999", None)


def name(version: int) -> str:
    return str(UpdateName(version))


def publish(folder: Path, version: int) -> bytes:
    """Rename an archive into the directory, as an upload does; returns its bytes."""
    path = make_archive(folder.parent / name(version), version)
    return path.rename(folder / path.name).read_bytes()


def publish_large(folder: Path, version: int) -> bytes:
    path = make_large_archive(folder.parent / name(version), LARGE)
    return path.rename(folder / path.name).read_bytes()


async def cost(origin: Server) -> float:
    """Count the requests for archives that the origin has answered."""
    measured = await metrics(origin)
    return sum(measured[key] for key in measured if key[:2] == ("opq_requests_total", "/update"))


async def becomes(server: Server, series: str, value: float) -> None:
    """Wait until a metric of the server has this value."""
    await until(lambda: metrics(server), lambda found: found.get((series,)) == value)


async def digested(origin: Server, path: str) -> Answer:
    """Wait until the server knows an archive's digest; returns the response to HEAD."""
    return await until(
        lambda: ask(origin, path, method="HEAD"), lambda answer: "Repr-Digest" in answer.headers
    )


def slice_of(part: str, whole: bytes) -> bytes:
    """Cut out a byte range (RFC 9110, section 14.1.2)."""
    first, last = part.split("-")
    if not first:
        return whole[-int(last) :]
    return whole[int(first) : int(last) + 1 if last else None]


@pytest_twisted.ensureDeferred
async def test_200_downloads(start: StartDaemon, spawn: StartDaemon, updates: Path) -> None:
    """200 simultaneous downloads of a new archive, or of its parts, cost the server one."""
    whole = publish_large(updates, 1)
    origin, nginx = await cached(start, spawn, updates)

    def download(number: int) -> None:
        part = PARTS[number % len(PARTS)]
        headers = {"Range": f"bytes={part}"} if part else {}
        answer = fetch(nginx, f"/update/{name(1)}?number={number}", headers)
        assert answer.status == (206 if part else 200)
        assert answer.body == (slice_of(part, whole) if part else whole), part

    def download_all() -> None:
        with ThreadPoolExecutor(20) as threads:
            for done in [threads.submit(download, number) for number in range(200)]:
                done.result(TIMEOUT)

    await deferToThread(download_all)
    assert await cost(origin) == 1


@pytest_twisted.ensureDeferred
async def test_one_address(start: StartDaemon, spawn: StartDaemon, updates: Path) -> None:
    """An address with very many simultaneous requests gets 503; other addresses get responses."""
    publish(updates, 1)
    origin, nginx = await cached(start, spawn, updates)
    tag = (await ask(nginx, "/version")).headers["ETag"]
    waiting = (
        f"GET /version HTTP/1.1\r\nHost: x\r\nPrefer: wait=300\r\nIf-None-Match: {tag}\r\n\r\n"
    )
    with ExitStack() as stack:
        for _ in range(192):
            client = socket.create_connection(("127.0.0.1", nginx.port), TIMEOUT)
            stack.enter_context(client).sendall(waiting.encode())
        await becomes(origin, "opq_waiting_boxes", 192)
        assert (await ask(nginx, "/version")).status == 503
        assert (await ask(nginx, "/version", source="127.0.0.2")).status == 200


@pytest_twisted.ensureDeferred
async def test_first_client_goes(start: StartDaemon, spawn: StartDaemon, updates: Path) -> None:
    """An archive is fetched completely even if the first client disconnects."""
    whole = publish_large(updates, 1)
    origin, nginx = await cached(start, spawn, updates)

    def begin() -> None:
        with socket.create_connection(("127.0.0.1", nginx.port), TIMEOUT) as client:
            client.sendall(f"GET /update/{name(1)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            client.recv(1000)

    await deferToThread(begin)
    assert (await ask(nginx, f"/update/{name(1)}")).body == whole
    assert await cost(origin) == 1


@pytest_twisted.ensureDeferred
async def test_head(start: StartDaemon, spawn: StartDaemon, updates: Path) -> None:
    """nginx sends the server's headers, whether it has stored the archive or not."""
    publish(updates, 1)
    origin, nginx = await cached(start, spawn, updates)
    path = f"/update/{name(1)}"
    direct = await digested(origin, path)
    for status in ("MISS", "HIT", "HIT"):
        proxied = await ask(nginx, path, method="HEAD")
        assert proxied.headers["X-Cache-Status"] == status
        for header in (
            *("Content-Type", "Content-Length", "Content-Disposition", "Accept-Ranges"),
            *("ETag", "Last-Modified", "Cache-Control", "Repr-Digest"),
        ):
            assert proxied.headers[header] == direct.headers[header], header
        assert "Content-Encoding" not in proxied.headers


@pytest_twisted.ensureDeferred
async def test_release(start: StartDaemon, spawn: StartDaemon, updates: Path) -> None:
    """As soon as the server offers a release, nginx leads to it."""
    publish(updates, 1)
    origin, nginx = await cached(start, spawn, updates)
    for version in (1, 2, 3):
        whole = publish(updates, version)
        await becomes(origin, "opq_newest_version", version)
        for _ in range(2):
            latest = await ask(nginx, "/latest")
            assert (latest.status, latest.headers["Location"]) == (303, f"update/{name(version)}")
            assert (await ask(nginx, "/version")).body == b"%d" % version
            listed = (await ask(nginx, "/ls")).body.decode().split()
            assert listed == [name(each) for each in range(1, version + 1)]
            assert (await ask(nginx, f"/{latest.headers['Location']}")).body == whole


@pytest_twisted.ensureDeferred
async def test_waiting_box(start: StartDaemon, spawn: StartDaemon, updates: Path) -> None:
    """A box that waits for a release behind nginx learns of it."""
    publish(updates, 1)
    origin, nginx = await cached(start, spawn, updates)
    headers = {"Prefer": f"wait={long_poll.MAX_WAIT}", "If-None-Match": '"1"'}
    answered = deferToThread(fetch, nginx, "/version", headers)
    await becomes(origin, "opq_waiting_boxes", 1)
    publish(updates, 2)
    answer = await answered
    assert (answer.status, answer.body, answer.headers["ETag"]) == (200, b"2", '"2"')
    assert answer.headers["Preference-Applied"] == headers["Prefer"]


def test_times() -> None:
    """nginx waits longer than the server, and closes idle connections earlier."""
    site = SITE.read_text()
    [read_timeout] = re.findall(r"proxy_read_timeout (\d+)s;", site)
    assert int(read_timeout) > long_poll.MAX_WAIT
    [keepalive] = re.findall(r"keepalive_timeout (\d+)s;", site)
    assert int(keepalive) < channel._REQUEST_TIMEOUT


@pytest_twisted.ensureDeferred
async def test_resumed(
    start: StartDaemon, spawn: StartDaemon, updates: Path, tmp_path: Path
) -> None:
    """A download that began at the server itself can be resumed behind nginx."""
    whole = publish_large(updates, 1)
    origin, nginx = await cached(start, spawn, updates)
    path = f"/update/{name(1)}"
    etag = (await ask(origin, path, method="HEAD")).headers["ETag"]
    rest = {"Range": "bytes=1000-"}
    for _ in range(2):
        resumed = await ask(nginx, path, {**rest, "If-Range": etag})
        assert (resumed.status, resumed.headers["ETag"]) == (206, etag)
        assert resumed.body == whole[1000:]
        other = await ask(nginx, path, {**rest, "If-Range": '"other"'})
        assert (other.status, other.body) == (200, whole)
        assert (await ask(nginx, path, {"If-None-Match": etag})).status == 304
    beyond = await ask(nginx, path, {"Range": f"bytes={len(whole)}-"})
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{len(whole)}")

    copy = tmp_path / "copy"
    copy.write_bytes(whole[:3_000_000])
    options = ("-sf", "-C", "-", "-o", str(copy), "-w", "%{http_code}")
    assert await run("curl", *options, nginx.url + path) == (0, "206", "")
    assert copy.read_bytes() == whole


@pytest_twisted.ensureDeferred
async def test_not_yet(start: StartDaemon, spawn: StartDaemon, updates: Path) -> None:
    """A missing archive is not stored as missing."""
    origin, nginx = await cached(start, spawn, updates)
    for _ in range(2):
        assert (await ask(nginx, f"/update/{name(1)}")).status == 404
    assert (await ask(nginx, "/latest")).status == 404
    whole = publish(updates, 1)
    await becomes(origin, "opq_archives", 1)
    assert (await ask(nginx, f"/update/{name(1)}")).body == whole
    assert (await ask(nginx, "/latest")).status == 303


@pytest_twisted.ensureDeferred
async def test_index(start: StartDaemon, spawn: StartDaemon, updates: Path) -> None:
    """The index of an archive's pieces is stored, and a missing or unfinished one is not."""
    publish(updates, 1)
    for version in (2, 3):
        make_pieces_archive(updates / name(version), version, random_parts(version))
    origin, nginx = await cached(start, spawn, updates)

    async def index(version: int) -> tuple[int, str | None]:
        answer = await ask(nginx, f"/update/{name(version)}.pieces")
        return answer.status, answer.headers["X-Cache-Status"]

    # The server computes only that of the newest archive before somebody asks.
    assert await index(2) == (503, None)
    await until(lambda: index(2), lambda found: found == (200, "HIT"))
    await until(lambda: index(1), lambda found: found == (404, None))
    for version in (1, 4):
        assert await index(version) == (404, None)
    counted = await metrics(origin)
    assert counted["opq_requests_total", "/update/NAME.pieces", "404"] == 3

    path = f"/update/{name(2)}.pieces"
    stored = await ask(nginx, f"{path}?box=3", method="HEAD")
    assert (stored.status, stored.headers["X-Cache-Status"]) == (200, "HIT")
    assert stored.headers["Content-Type"] == "application/json"
    assert "Content-Encoding" not in stored.headers
    known = await ask(nginx, path, {"If-None-Match": stored.headers["ETag"]})
    assert (known.status, known.body) == (304, b"")
    # The archive and its index are stored under different names.
    whole = (updates / name(2)).read_bytes()
    assert (await ask(nginx, f"/update/{name(2)}")).body == whole
    assert json.loads((await ask(nginx, path)).body)["size"] == len(whole)


@pytest_twisted.ensureDeferred
async def test_failing_origin(spawn: StartDaemon, raw: RawServer, tmp_path: Path) -> None:
    """Incomplete responses and errors are not stored."""
    path = f"/update/{name(1)}"
    nginx = await in_front_of(spawn, tmp_path / "nginx", raw.url)
    lasting, never = "Cache-Control: public, max-age=31536000", "Cache-Control: no-store"

    raw.answers[path] = box.Answer(http(b"", "Retry-After: 7", never, status="503 Busy"))
    busy = await ask(nginx, path)
    assert (busy.status, busy.headers["Retry-After"]) == (503, "7")
    raw.answers[path] = box.Answer(http(b"12345", lasting, length=10))
    assert await run("curl", "-s", nginx.url + path) == (CURL_CUT, "12345", "")
    raw.answers[path] = box.Answer(http(b"1234567890", lasting))
    for _ in range(2):
        assert (await ask(nginx, path)).body == b"1234567890"
    assert len(raw.asked) == 3


@pytest_twisted.ensureDeferred
async def test_metrics(start: StartDaemon, spawn: StartDaemon, updates: Path) -> None:
    """Through nginx only the machine itself can read the metrics, with any spelling of the path."""
    _, nginx = await cached(start, spawn, updates)
    assert b"opq_archives 0.0" in (await ask(nginx, "/metrics")).body
    for path in ("/metrics", "/metrics?x", "//metrics", "/%6detrics", "/x/../metrics", "/metrics/"):
        answer = await ask(nginx, path, source="127.0.0.2")
        assert answer.status in (403, 404), path
        assert b"opq_archives" not in answer.body


@pytest_twisted.ensureDeferred
async def test_tls(start: StartDaemon, spawn: StartDaemon, updates: Path) -> None:
    """nginx has TLS beside the plain port, answers certbot, and reads a renewed certificate."""
    folder = updates.parent / "nginx"
    port = use_tls(folder)
    key, certificate = folder / "privkey.pem", folder / "fullchain.pem"
    make_certificate(key, certificate)
    challenge = folder / "html" / ".well-known" / "acme-challenge" / "token"
    challenge.parent.mkdir(parents=True)
    challenge.write_text("answer")
    publish(updates, 1)
    _, nginx = await cached(start, spawn, updates)
    assert (await ask(nginx, "/.well-known/acme-challenge/token")).body == b"answer"
    url = f"https://127.0.0.1:{port}/version"

    async def trusted() -> tuple[int, str, str]:
        return await run("curl", "-sf", "--cacert", str(certificate), url)

    assert await trusted() == (0, "1", "")
    assert (await ask(nginx, "/version")).body == b"1"
    make_certificate(key, certificate)
    assert (await trusted())[0] != 0
    # As `systemctl reload nginx` does.
    os.kill(nginx.pid, signal.SIGHUP)
    await until(trusted, lambda answer: answer == (0, "1", ""))


@pytest_twisted.ensureDeferred
async def test_mirror(
    start: StartDaemon, spawn: StartDaemon, updates: Path, tmp_path: Path
) -> None:
    """A server with a mirror redirects archives only."""
    publish(updates, 1)
    whole = publish(updates, 2)
    origin, nginx = await cached(start, spawn, updates)
    server = await started(start, updates, "--mirror", f"{nginx.url}/")
    location = f"{nginx.url}/update/{name(2)}"
    for path, status in (("/latest", 303), (f"/update/{name(2)}", 307)):
        for method in ("GET", "HEAD"):
            answer = await ask(server, path, method=method)
            assert (answer.status, answer.headers["Location"]) == (status, location)
        out = tmp_path / "copy"
        assert await run("curl", "-sfL", "-o", str(out), server.url + path) == (0, "", "")
        assert out.read_bytes() == whole
        out.unlink()
    version = await ask(server, "/version")
    assert (version.status, version.body) == (200, b"2")
    assert (await ask(server, f"/update/{name(3)}")).status == 404
    assert await cost(origin) == 1


def connected(server: Server) -> list[int]:
    """List the box's own ports of its connections to a server."""
    clients = [reader for reader in reactor.getReaders() if isinstance(reader, Client)]
    return [client.getHost().port for client in clients if client.getPeer().port == server.port]


@pytest_twisted.ensureDeferred
async def test_ranges_of_a_box(start: StartDaemon, spawn: StartDaemon, updates: Path) -> None:
    """A box fetches all ranges over one connection, and through a redirect over one to each."""
    whole = publish_large(updates, 1)
    origin, nginx = await cached(start, spawn, updates)
    server = await started(start, updates, "--mirror", nginx.url)
    clients = make_http_clients(reactor)
    client = UpdateServerClient(reactor, clients, "http://unused", lambda: "opq-box-agent")

    async def fetch_range(url: str, first: int) -> bytes:
        headers = {"Range": f"bytes={first}-{first + 999_999}"}
        response = await client.get_archive(f"{url}/update/{name(1)}", headers)
        assert response.code == 206
        body = bytearray()
        await read_body(reactor, response, body.extend, 1_000_000)
        return bytes(body)

    for asked, answering in ((origin, (origin,)), (nginx, (nginx,)), (server, (server, nginx))):
        used = set()
        for first in range(0, 4_000_000, 1_000_000):
            assert await fetch_range(asked.url, first) == whole[first : first + 1_000_000]
            used.add(tuple(port for each in answering for port in connected(each)))
        assert [len(ports) for ports in used] == [len(answering)]
        clients.idle.stopService()


@pytest_twisted.ensureDeferred
async def test_several_servers(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """Servers with one directory, or with a copy that keeps times, send the same."""
    for version in (1, 2):
        publish(updates, version)
    copied = shutil.copytree(updates, tmp_path / "copied")
    servers = [await started(start, folder) for folder in (updates, updates, copied)]
    for path in ("/version", "/ls", f"/update/{name(1)}", f"/update/{name(2)}"):
        first, *others = [await ask(server, path) for server in servers]
        for other in others:
            assert other.body == first.body
            for header in ("ETag", "Last-Modified", "Content-Length"):
                assert other.headers[header] == first.headers[header]
    publish(updates, 3)
    for server in servers[:2]:
        await becomes(server, "opq_newest_version", 3)
    tags = {(await ask(server, f"/update/{name(3)}")).headers["ETag"] for server in servers[:2]}
    assert len(tags) == 1


@pytest_twisted.ensureDeferred
async def test_late_server(
    start: StartDaemon, spawn: StartDaemon, updates: Path, tmp_path: Path
) -> None:
    """Behind nginx, an archive that one of several servers does not know yet comes from another."""
    late = tmp_path / "late"
    late.mkdir()
    servers = [await started(start, folder) for folder in (late, updates)]
    nginx = await in_front_of(spawn, tmp_path / "nginx", *(each.url for each in servers))
    for version in range(1, 5):
        whole = publish(updates, version)
        await becomes(servers[1], "opq_newest_version", version)
        assert (await ask(nginx, f"/update/{name(version)}")).body == whole
    assert (await ask(nginx, f"/update/{name(5)}")).status == 404
