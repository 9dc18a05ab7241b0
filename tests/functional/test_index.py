"""The index of an archive's pieces, from the real server."""

import base64
import bz2
import hashlib
import io
import json
import re
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest_twisted

from opq_twisted.archive.name import UpdateName
from opq_twisted.archive.sizes import MAX_ARCHIVE
from opq_twisted.server.catalog.archive_cache import MAX_WANTED
from tests.functional.conftest import StartDaemon
from tests.functional.nginx import Answer, ask
from tests.functional.processes import Server, succeed, until
from tests.functional.update_server import archive, offers, started


def name(version: int) -> str:
    return str(UpdateName(version))


def pieces_by_hand(path: Path, version: int) -> list[bytes]:
    """Write an archive of several bzip2 streams with Python's own tar and bzip2; returns these."""
    stream = io.BytesIO()
    contents = {"VERSION": b"%d\n" % version, "install_update.sh": b"#!/bin/sh\n"}
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for member, content in {**contents, "data": bytes(range(256)) * 100}.items():
            described = tarfile.TarInfo(f"opq-box-update-{version}/{member}")
            described.size, described.mode = len(content), 0o755
            tar.addfile(described, io.BytesIO(content))
    whole = stream.getvalue()
    cuts = [0, 1000, 1500, 20_000, len(whole)]
    streams = [bz2.compress(whole[a:b]) for a, b in pairwise(cuts)]
    path.write_bytes(b"".join(streams))
    return streams


async def computed(server: Server, version: int) -> Answer:
    """Ask for an index until it is computed."""
    path = f"/update/{name(version)}.pieces"
    return await until(lambda: ask(server, path), lambda answer: answer.status != 503)


@pytest_twisted.ensureDeferred
async def test_index(start: StartDaemon, updates: Path) -> None:
    """The index has the length and the SHA-256 of each bzip2 stream, and those of the archive."""
    streams = pieces_by_hand(updates / name(2), 2)
    server = await started(start, updates)
    answer = await computed(server, 2)
    whole = b"".join(streams)
    expected = {
        "size": len(whole),
        "sha256": hashlib.sha256(whole).hexdigest(),
        "pieces": [
            [len(each), base64.b64encode(hashlib.sha256(each).digest()).decode()]
            for each in streams
        ],
    }
    assert (answer.status, json.loads(answer.body)) == (200, expected)
    path = f"/update/{name(2)}.pieces"
    head = await ask(server, path, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(answer.body))
    assert head.headers["ETag"] == answer.headers["ETag"]
    known = await ask(server, path, {"If-None-Match": answer.headers["ETag"]})
    assert (known.status, known.body) == (304, b"")


@pytest_twisted.ensureDeferred
async def test_stored(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """The index can be stored for a static server, by the command in the manual."""
    pieces_by_hand(updates / name(2), 2)
    server = await started(start, updates)
    stored = tmp_path / f"{name(2)}.pieces"
    url = f"{server.url}/update/{stored.name}"
    await succeed("curl", "-sfo", stored, "--retry", "10", url)
    assert stored.read_bytes() == (await ask(server, f"/update/{stored.name}")).body


@pytest_twisted.ensureDeferred
async def test_on_demand(start: StartDaemon, updates: Path) -> None:
    """An older archive's index is computed when somebody asks; one of one stream has none."""
    archive(updates, 1)
    pieces_by_hand(updates / name(2), 2)
    pieces_by_hand(updates / name(3), 3)
    server = await started(start, updates)
    for version, status in ((1, 404), (2, 200)):
        first = await ask(server, f"/update/{name(version)}.pieces")
        assert first.status == 503
        assert 2 <= int(first.headers["Retry-After"]) <= 4
        assert (await computed(server, version)).status == status


@pytest_twisted.ensureDeferred
async def test_replaced(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """A replaced archive has another index, and one that was removed has none."""
    pieces_by_hand(updates / name(2), 2)
    server = await started(start, updates)
    before = await computed(server, 2)
    streams = pieces_by_hand(tmp_path / name(2), 20)
    (tmp_path / name(2)).rename(updates / name(2))
    after = await computed(server, 2)
    assert json.loads(after.body)["sha256"] == hashlib.sha256(b"".join(streams)).hexdigest()
    assert after.body != before.body
    assert after.headers["ETag"] != before.headers["ETag"]
    (updates / name(2)).unlink()
    await offers(server)
    assert (await ask(server, f"/update/{name(2)}.pieces")).status == 404


@pytest_twisted.ensureDeferred
async def test_mirror(start: StartDaemon, updates: Path) -> None:
    """A server with a mirror redirects archives, and sends their indexes itself."""
    pieces_by_hand(updates / name(2), 2)
    plain = await started(start, updates)
    server = await started(start, updates, "--mirror", "http://mirror.example")
    assert (await ask(server, f"/update/{name(2)}")).status == 307
    answer = await computed(server, 2)
    assert (answer.status, answer.body) == (200, (await computed(plain, 2)).body)


def with_holes(updates: Path, version: int) -> None:
    """Write an archive as large as a box takes: holes cost no room on the disk, but are read."""
    end = bz2.compress(b"")
    with (updates / name(version)).open("wb") as file:
        file.write(end[:10])
        file.seek(MAX_ARCHIVE - len(end))
        file.write(end)


def usage(server: Server) -> tuple[int, int]:
    """Read the highest memory of the server so far, in bytes, and its threads."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    [memory], [threads] = (re.findall(rf"{key}:\s+(\d+)", status) for key in ("VmHWM", "Threads"))
    return int(memory) * 1024, int(threads)


@pytest_twisted.ensureDeferred
async def test_hostile(start: StartDaemon, updates: Path) -> None:
    """A client that asks for the indexes of many huge archives costs little, and stops nothing."""
    versions = range(1, 2 * MAX_WANTED)
    server = await started(start, updates)
    memory, threads = usage(server)
    for version in versions:
        with_holes(updates, version)
    await offers(server, *versions)
    soon = 0
    for version in versions:
        answer = await ask(server, f"/update/{name(version)}.pieces")
        # The first ones may have been computed.
        assert answer.status in (503, 404)
        soon += "Retry-After" in answer.headers
        assert (await ask(server, "/version")).status == 200
    assert soon < len(versions)
    after = usage(server)
    assert after[0] - memory < 20_000_000
    # One for the indexes and one for the digests, each with one that hashes; and that of the scan.
    assert after[1] - threads <= 5
    # It is not waited for what is being read, nor for what waits.
    await server.stop()
    assert "Traceback" not in server.output
