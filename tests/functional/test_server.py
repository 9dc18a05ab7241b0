"""The update server, driven by real clients."""

import json
import os
import signal
import socket
import urllib.error
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from opq_twisted.archive.name import UpdateName
from tests.functional.conftest import StartDaemon
from tests.functional.processes import (
    ROOT,
    TIMEOUT,
    TWISTD,
    curl,
    daemon_command,
    eventually,
    get,
    run,
    succeed,
    without_capabilities,
)
from tests.functional.update_server import LARGE, archive, exchange, large_archive, offers, started
from tests.helpers.archives import make_archive


@pytest_twisted.ensureDeferred
async def test_endpoints(start: StartDaemon, updates: Path) -> None:
    """The five endpoints of the older server work; the newest version is the highest number."""
    for version in (999999999, 1000000000):
        archive(updates, version)
    names = [str(UpdateName(version)) for version in (999999999, 1000000000)]
    server = await started(start, updates)
    assert await curl(f"{server.url}/") == (200, "")
    assert await curl(f"{server.url}/version") == (200, "1000000000")
    assert await curl(f"{server.url}/ls") == (200, "".join(f"{name}\n" for name in names))
    status, listed = await curl("-H", "Accept: application/json", f"{server.url}/ls")
    assert [each["name"] for each in json.loads(listed)] == names
    status, _ = await curl(f"{server.url}/latest")
    assert status == 303
    assert await get(f"{server.url}/latest") == (updates / names[1]).read_bytes()
    assert await get(f"{server.url}/update/{names[0]}") == (updates / names[0]).read_bytes()


@pytest_twisted.ensureDeferred
async def test_nothing_yet(start: StartDaemon, updates: Path) -> None:
    """Without an update `/` gets 200, and `/version` and `/latest` say what to do."""
    server = await started(start, updates)
    assert await curl(f"{server.url}/") == (200, "")
    for path in ("version", "latest"):
        status, sentence = await curl(f"{server.url}/{path}")
        assert status == 404
        assert sentence.startswith("There is no update yet. Put an ")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        await get(f"{server.url}/latest")


@pytest_twisted.ensureDeferred
async def test_large(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """curl, wget and clients of HTTP/1.0 receive a large archive completely."""
    path = large_archive(updates, 1)
    server = await started(start, updates)
    copy = tmp_path / "copy"
    for client in (
        ("curl", "-sfL", "-o"),
        ("curl", "-sfL", "--http1.0", "-o"),
        ("wget", "-q", "--no-http-keep-alive", "-O"),
    ):
        await succeed(*client, copy, f"{server.url}/latest")
        assert copy.read_bytes() == path.read_bytes()
        copy.unlink()


@pytest_twisted.ensureDeferred
async def test_bare_http_1_0(start: StartDaemon, updates: Path) -> None:
    """A client that sends a request line only gets a response, and the connection is closed."""
    archive(updates, 7)
    server = await started(start, updates)
    received = await exchange(server, b"GET /version HTTP/1.0\r\n\r\n")
    assert b" 200 " in received.split(b"\r\n")[0]
    assert received.endswith(b"\r\n\r\n7")


@pytest_twisted.ensureDeferred
async def test_follows_the_directory(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """Added, replaced, renamed, moved and removed archives are noticed without a restart."""
    server = await started(start, updates)
    archive(tmp_path, 1).rename(updates / str(UpdateName(1)))
    await offers(server, 1)
    source = archive(tmp_path, 2)
    await succeed("cp", source, updates)
    await offers(server, 1, 2)
    (updates / str(UpdateName(1))).rename(updates / str(UpdateName(3)))
    await offers(server, 2, 3)
    (updates / str(UpdateName(3))).rename(tmp_path / "away")
    await offers(server, 2)
    (updates / str(UpdateName(2))).unlink()
    await offers(server)


@pytest_twisted.ensureDeferred
async def test_replaced(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """The next download after a replacement has the new file."""
    path = archive(updates, 1)
    server = await started(start, updates)
    url = f"{server.url}/update/{path.name}"
    before = await get(url)
    make_archive(tmp_path / "new", 1, {"note": b"built again"}).rename(path)
    after = await get(url)
    assert before != after == path.read_bytes()


@pytest_twisted.ensureDeferred
async def test_copy_in_progress(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """An archive is offered when its copy is complete, and not before."""
    whole = archive(tmp_path, 5).read_bytes()
    server = await started(start, updates)
    name = str(UpdateName(5))
    with (updates / name).open("wb") as file:
        file.write(whole[: len(whole) // 2])
        file.flush()
        archive(updates, 1)  # known only after what came before it
        await offers(server, 1)
        assert (await curl(f"{server.url}/update/{name}"))[0] == 404
        assert await curl(f"{server.url}/version") == (200, "1")
        file.write(whole[len(whole) // 2 :])
    await offers(server, 1, 5)


@pytest_twisted.ensureDeferred
async def test_copy_that_was_killed(
    start: StartDaemon, spawn: StartDaemon, updates: Path, tmp_path: Path
) -> None:
    """A copy that was killed half-way is not offered, and the log says why."""
    source, name = archive(tmp_path, 5), str(UpdateName(5))
    server = await started(start, updates)
    script = 'exec >"$2"; head -c 100 "$1"; echo copied >&2; read -r _'
    copy = spawn("sh", "-c", script, "sh", source, updates / name)
    await copy.says("copied")
    assert await copy.stop(signal.SIGKILL) == -signal.SIGKILL
    archive(updates, 1)  # known only after what came before it
    await offers(server, 1)
    await server.says(f"'{name}' is not offered: it is not a whole bzip2 file")
    archive(updates, 5)
    await offers(server, 1, 5)


@pytest_twisted.ensureDeferred
async def test_truncated_under_way(start: StartDaemon, updates: Path) -> None:
    """If a file shrinks while it is sent, the connection is cut, so no client takes it as whole."""
    path = large_archive(updates, 1)
    server = await started(start, updates)

    def download() -> int:
        request = f"GET /update/{path.name} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as client:
            client.sendall(request)
            received = len(client.recv(1000))
            os.truncate(path, 1000)
            while data := client.recv(1_000_000):
                received += len(data)
        return received

    assert await deferToThread(download) < LARGE
    await server.says("cut: the file was changed while it was sent")
    assert (await curl(f"{server.url}/update/{path.name}"))[0] == 404


#: Spellings of the parent folder.
ESCAPES = (
    *("..", "..;", "..\\..", "..%5c..", "..%2f.."),
    *("%2e%2e", "%2E%2E", "%252e%252e", ".%2e"),
    *("%c0%ae%c0%ae", "%e0%80%ae%e0%80%ae", "%uff0e%uff0e"),
    *("..%00", "%00..", "..%0d%0a"),
)


@pytest_twisted.ensureDeferred
async def test_nothing_outside(start: StartDaemon, updates: Path) -> None:
    """No spelling of a path leads out of the directory, or to a file outside the catalog."""
    (updates.parent / "secret").write_text("root:x:0:0")
    (updates / "secret").write_text("root:x:0:0")
    archive(updates, 1)
    server = await started(start, updates)
    paths = ["/secret", "/update/secret", "/update//secret", "/update/./secret"]
    paths += [f"/update/{updates.parent}/secret", "/update//etc/passwd", "/update/%2fetc%2fpasswd"]
    for up in ESCAPES:
        paths += [f"/{up}/secret", f"/update/{up}/secret", f"/update/{up}%2fsecret"]
        paths += [f"/update/{up}/{up}/{up}/{up}/{up}/{up}/etc/passwd"]
        paths += [f"/update/{UpdateName(1)}/{up}/secret"]
    for path in paths:
        status, body = await curl("--path-as-is", server.url + path)
        assert (status, body) == (404, "There is nothing here.\n"), path


@pytest_twisted.ensureDeferred
async def test_raw_bytes(start: StartDaemon, updates: Path) -> None:
    """Paths with invalid bytes are refused, and the server continues."""
    server = await started(start, updates)
    for path in (b"/update/\0", b"/update/\xc0\xae\xc0\xae/secret", b"/update/\xff", b"..", b"x:"):
        request = b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        received = await exchange(server, request)
        assert received.split(b" ", 2)[1] in (b"400", b"404"), path
    assert await curl(f"{server.url}/") == (200, "")


@pytest_twisted.ensureDeferred
async def test_too_large(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """A line, header or body that is too large gets its own status."""
    server = await started(start, updates)
    body = tmp_path / "body"
    body.write_bytes(bytes(3_000_000))
    assert await curl(f"{server.url}/{'a' * 100_000}") == (414, "")
    assert await curl("-H", f"X: {'a' * 100_000}", f"{server.url}/") == (431, "")
    assert await curl("-X", "POST", "--data-binary", f"@{body}", f"{server.url}/") == (413, "")
    assert await curl(f"{server.url}/") == (200, "")


@pytest_twisted.ensureDeferred
async def test_busy_port(start: StartDaemon, updates: Path) -> None:
    """A busy port ends the process with status 1 and a sentence."""
    port = f"tcp:{(await started(start, updates)).port}:interface=127.0.0.1"
    second = start("opq-update-server", "--updates-dir", updates, "--port", port)
    await second.refuses_to_start(
        f"Cannot listen on port {port}: ", "Stop what listens there, or choose another --port."
    )


@pytest_twisted.ensureDeferred
async def test_bad_port(start: StartDaemon, updates: Path) -> None:
    """An invalid port ends the process with status 1 and a sentence."""
    for port in ("http", "70000", "ssl:0:privateKey=/missing"):
        server = start("opq-update-server", "--updates-dir", updates, "--port", port)
        await server.refuses_to_start(port)


@pytest_twisted.ensureDeferred
async def test_missing_directory(start: StartDaemon, tmp_path: Path) -> None:
    """A missing directory ends the process with status 1 and a sentence."""
    server = start("opq-update-server", "--updates-dir", tmp_path / "missing")
    missing = tmp_path / "missing"
    await server.refuses_to_start(f"Cannot read the updates directory {missing}: No such")


@pytest.mark.root
@pytest_twisted.ensureDeferred
async def test_unreadable_directory(spawn: StartDaemon, updates: Path) -> None:
    """An unreadable directory ends the process with status 1 and a sentence."""
    os.chmod(updates, 0)
    command = daemon_command("opq-update-server", "--updates-dir", updates)
    server = spawn(*without_capabilities(), *command)
    await server.refuses_to_start(
        f"Cannot read the updates directory {updates}: Permission denied."
    )


async def daemonize(folder: Path, updates: Path, port: int) -> tuple[int, str]:
    """Start a daemon in the background, as `twistd` does by default."""
    status, out, error = await run(
        *(TWISTD, "--pidfile", str(folder / "pid"), "--logfile", str(folder / "log")),
        *("opq-update-server", "--updates-dir", str(updates)),
        *("--port", f"tcp:{port}:interface=127.0.0.1"),
        folder=ROOT,
    )
    return status, out + error


@pytest_twisted.ensureDeferred
async def test_daemon(updates: Path, tmp_path: Path) -> None:
    """A server in the background responds, and ends on SIGTERM."""
    archive(updates, 7)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    status, output = await daemonize(tmp_path, updates, port)
    assert status == 0, output
    pid_file = tmp_path / "pid"
    try:
        assert await curl(f"http://127.0.0.1:{port}/version") == (200, "7")
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGTERM)
        await eventually(lambda: not pid_file.exists())
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest_twisted.ensureDeferred
async def test_daemon_on_a_busy_port(updates: Path, tmp_path: Path) -> None:
    """A busy port ends a server in the background with status 1, a sentence and no PID file."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, output = await daemonize(tmp_path, updates, taken.getsockname()[1])
    assert status == 1
    assert "Cannot listen on port tcp:" in output
    # twistd reports the failure first, and then removes the file.
    await eventually(lambda: not (tmp_path / "pid").exists())


@pytest_twisted.ensureDeferred
async def test_sigterm_during_download(start: StartDaemon, updates: Path) -> None:
    """A server ends on SIGTERM during a download."""
    path = large_archive(updates, 1)
    server = await started(start, updates)
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as client:
        client.sendall(f"GET /update/{path.name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await deferToThread(client.recv, 1000)
        assert await server.stop() == -signal.SIGTERM
    assert "Traceback" not in server.output
