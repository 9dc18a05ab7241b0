"""Real clients download archives and parts of them, and resume interrupted downloads."""

import re
from pathlib import Path

import pytest_twisted

from opq_twisted.archive.name import UpdateName
from tests.functional.conftest import StartDaemon
from tests.functional.processes import curl, succeed
from tests.functional.update_server import archive, exchange, large_archive, metrics, started

NAME = str(UpdateName(1))


def part_of(whole: Path, folder: Path, count: int) -> Path:
    """Leave the first bytes of an archive in a folder, as an interrupted download does."""
    part = folder / whole.name
    part.write_bytes(whole.read_bytes()[:count])
    return part


@pytest_twisted.ensureDeferred
async def test_curl_resumes(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """`curl -C -` fetches the missing part only."""
    whole = large_archive(updates, 1)
    server = await started(start, updates)
    part = part_of(whole, tmp_path, 20_000_001)
    await succeed("curl", "-sf", "-C", "-", "-o", part, f"{server.url}/update/{NAME}")
    assert part.read_bytes() == whole.read_bytes()
    found = await metrics(server)
    assert found["opq_requests_total", "/update", "206"] == 1
    assert found["opq_sent_bytes_total",] == whole.stat().st_size - 20_000_001


@pytest_twisted.ensureDeferred
async def test_curl_with_validators(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """A download is resumed only if the archive is the same; a known archive is not sent."""
    whole = archive(updates, 1)
    server = await started(start, updates)
    url = f"{server.url}/update/{NAME}"
    etags = tmp_path / "etags"
    await succeed("curl", "-sf", "--etag-save", etags, "-o", tmp_path / "got", url)
    tag = etags.read_text().strip()
    assert await curl("--etag-compare", str(etags), url) == (304, "")
    assert (await curl("-o", "/dev/null", "-r", "9-", "-H", f"If-Range: {tag}", url))[0] == 206
    assert (await curl("-o", "/dev/null", "-r", "9-", "-H", 'If-Range: "x"', url))[0] == 200
    assert (await curl("-z", str(whole), url))[0] == 304
    head = await succeed("curl", "-sI", url)
    assert head.startswith("HTTP/1.1 200 ")
    assert f"content-length: {whole.stat().st_size}" in head.lower()


@pytest_twisted.ensureDeferred
async def test_wget_resumes(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """`wget -c` fetches the missing part, and accepts a whole file."""
    whole = large_archive(updates, 1)
    server = await started(start, updates)
    part = part_of(whole, tmp_path, 3_333_333)
    for _ in range(2):
        await succeed("wget", "-q", "-c", f"{server.url}/update/{NAME}", folder=tmp_path)
        assert part.read_bytes() == whole.read_bytes()
    found = await metrics(server)
    assert found["opq_requests_total", "/update", "206"] == 1
    assert found["opq_requests_total", "/update", "416"] == 1


@pytest_twisted.ensureDeferred
async def test_aria2c(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """aria2c downloads an archive over eight connections."""
    whole = large_archive(updates, 1)
    server = await started(start, updates)
    await succeed(
        *("aria2c", "--no-conf", "-q", "-x8", "-s8", "-k1M", "--file-allocation=none"),
        *("-d", tmp_path, "-o", "got", f"{server.url}/latest"),
    )
    assert (tmp_path / "got").read_bytes() == whole.read_bytes()


@pytest_twisted.ensureDeferred
async def test_aria2c_resumes(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """aria2c resumes an interrupted download."""
    whole = large_archive(updates, 1)
    server = await started(start, updates)
    part_of(whole, tmp_path, 9_000_000)
    await succeed(
        *("aria2c", "--no-conf", "-q", "-c", "-x1", "--file-allocation=none"),
        *("-d", tmp_path, f"{server.url}/update/{NAME}"),
    )
    assert (tmp_path / NAME).read_bytes() == whole.read_bytes()
    assert (await metrics(server))["opq_sent_bytes_total",] < whole.stat().st_size


@pytest_twisted.ensureDeferred
async def test_ab(start: StartDaemon, updates: Path) -> None:
    """ab finds no failed or different response, with and without keep-alive."""
    archive(updates, 1)
    server = await started(start, updates)
    for option in ("-k", "-d"):
        for path in ("version", "ls", f"update/{NAME}"):
            url = f"{server.url}/{path}"
            out = await succeed("ab", "-q", option, "-n", "500", "-c", "20", url)
            assert re.search(r"Complete requests: +500\n", out), out
            assert re.search(r"Failed requests: +0\n", out), out
            assert "Non-2xx" not in out, out


@pytest_twisted.ensureDeferred
async def test_wrk(start: StartDaemon, updates: Path) -> None:
    """wrk finds no error on many persistent connections."""
    large_archive(updates, 1)
    server = await started(start, updates)
    for path in ("version", "latest", "ls", f"update/{NAME}"):
        out = await succeed("wrk", "-t1", "-c50", "-d1", "--timeout=60", f"{server.url}/{path}")
        assert "Socket errors" not in out, out
        # wrk counts every status over 399 as such; /latest has 303.
        assert "Non-2xx or 3xx" not in out, out
    assert "Traceback" not in server.output


@pytest_twisted.ensureDeferred
async def test_multiple_ranges(start: StartDaemon, updates: Path) -> None:
    """A client gets several parts in one response."""
    whole = archive(updates, 1).read_bytes()
    server = await started(start, updates)
    received = await exchange(
        server,
        f"GET /update/{NAME} HTTP/1.1\r\nHost: x\r\nRange: bytes=0-3,-4\r\n"
        "Connection: close\r\n\r\n".encode(),
    )
    assert received.startswith(b"HTTP/1.1 206 ")
    assert b"Content-Type: multipart/byteranges; boundary=" in received
    size = len(whole)
    assert f"Content-Range: bytes 0-3/{size}\r\n\r\n".encode() + whole[:4] in received
    assert f"bytes {size - 4}-{size - 1}/{size}\r\n\r\n".encode() + whole[-4:] in received
