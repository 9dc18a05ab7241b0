"""
A box that assembles an archive ends with the right one, whatever it is sent, or says why not.

A lie costs at most one more download of the whole. Of each kind of oddities a sample is tried, and
all under torture.
"""

import base64
import gzip
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_twisted
from attrs import evolve, field, frozen
from twisted.internet.defer import Deferred, maybeDeferred

from opq_twisted.archive.delta import Delta, compare
from opq_twisted.archive.name import UpdateName
from opq_twisted.archive.pieces import MAGIC, MAX_INDEX, MAX_PIECES
from opq_twisted.archive.release import Release
from tests.functional import older_server
from tests.functional.box import INSTALL, Box, Spawn, assert_clear
from tests.functional.conftest import StartDaemon
from tests.functional.downloads import NEW, OLD, Download, Hurried, digest, index_of
from tests.functional.processes import ROOT, Server, curl, succeed, until
from tests.functional.proxy import (
    End,
    Message,
    Mischief,
    Plan,
    Proxy,
    Sending,
    as_it_is,
    cut_body,
    cut_head,
    drip,
    honest,
    other_bytes,
    other_range,
    status,
)
from tests.functional.update_server import serving, started
from tests.helpers.archives import concatenated
from tests.helpers.torture import sample

#: The paths of the new release and of its index.
ARCHIVE = f"/update/{UpdateName(NEW)}"
INDEX = f"{ARCHIVE}.pieces"

#: Other archives on the server, of the same size and of another one.
SAME_SIZE, LARGER = 1700000000, 1700000001

#: The bytes of a piece.
PIECE = 200_000

#: Where an index is cut off.
CUTS = range(0, 400, 7)


def pieces_of(*seeds: int) -> bytes:
    """Make the bytes of an archive with a piece of equal length for each seed."""
    noise = (Random(seed).randbytes(PIECE - len(MAGIC)) for seed in seeds)
    return b"".join(MAGIC + each for each in noise) + concatenated([b""])


@frozen
class Site:
    """The update server, the archive of the new release, and that of the last good one."""

    server: Server
    archive: bytes
    old: bytes
    #: How the new one is assembled from the old one.
    delta: Delta
    #: The index as the server sends it.
    index: dict[str, Any]

    @property
    def release(self) -> Release:
        """The description of the release for a box with signed metadata."""
        return Release(NEW, len(self.archive), {"sha256": digest(self.archive)})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Start the update server."""
    updates = tmp_path_factory.mktemp("updates")

    def publish(version: int, *seeds: int) -> Path:
        path = updates / str(UpdateName(version))
        path.write_bytes(pieces_of(*seeds))
        return path

    new, old = publish(NEW, 1, 2, 3, 4, 5, 6), publish(OLD, 1, 12, 3, 14, 5, 16)
    publish(SAME_SIZE, 21, 22, 23, 24, 25, 26)
    publish(LARGER, 31, 32, 33, 34, 35, 36, 37)
    index = index_of(new)
    delta = compare(index, index_of(old))
    document = json.loads(index.to_json())
    assert len(index.to_json()) > max(CUTS)
    with serving(updates) as server:
        # The server computes the index when it is asked first.
        asked = until(lambda: curl(f"{server.url}{INDEX}"), lambda answer: answer[0] == 200)
        pytest_twisted.blockon(Deferred.fromCoroutine(asked))
        yield Site(server, new.read_bytes(), old.read_bytes(), delta, document)


@pytest.fixture
def proxy(site: Site) -> Iterator[Proxy]:
    """The network between the box and the server."""
    proxy = Proxy(site.server.port)
    yield proxy
    pytest_twisted.blockon(proxy.close())


@pytest.fixture
def mirror(site: Site) -> Iterator[Proxy]:
    """Another server, to which requests are redirected."""
    mirror = Proxy(site.server.port)
    yield mirror
    pytest_twisted.blockon(mirror.close())


@pytest.fixture
def download(hurried: Hurried, proxy: Proxy, site: Site, tmp_path: Path) -> Download:
    """The downloader of a box that has the old archive."""
    download = Download(hurried, proxy.url, site.archive, tmp_path / "archives", proxy)
    download.keep_as_last_good(site.old)
    return download


def sent(proxy: Proxy) -> int:
    """Count the bytes of the archive that were sent."""
    return proxy.body_bytes.get(ARCHIVE, 0)


def ranges(proxy: Proxy) -> list[str | None]:
    """List the ranges of the archive that were requested; None for the whole."""
    return [request.get("Range") for request, _ in proxy.passed if request.path == ARCHIVE]


def once(path: str, mischief: Mischief) -> Plan:
    """Plan a fault of the first request of a path."""
    left = [mischief]
    return lambda request: left.pop() if request.path == path and left else None


def replaced(body: bytes, *headers: tuple[str, str]) -> Mischief:
    """Send another body."""

    def send(answer: Message) -> Sending:
        other = evolve(answer, body=body).having("Content-Length", str(len(body)))
        for name, value in headers:
            other = other.having(name, value)
        return as_it_is(other)

    return Mischief("another body", send)


@frozen
class Flood(Sending):
    """A body of a GB: the same bytes again and again."""

    #: How often they were sent.
    times: list[None] = field(factory=list)

    def pieces(self) -> Iterator[bytes]:
        yield self.head
        for _ in range(10**9 // len(self.body)):
            self.times.append(None)
            yield self.body


def flood(body: bytes, times: list[None], chunked: bool = False) -> Mischief:
    """Send these bytes for a GB."""
    if chunked:
        length, body = ("Transfer-Encoding", "chunked"), b"%x\r\n%s\r\n" % (len(body), body)
    else:
        length = ("Content-Length", str(10**9))

    def send(answer: Message) -> Sending:
        return Flood(answer.having("Content-Length").having(*length).head, body, times=times)

    return Mischief("a GB", send)


# Indexes that lie

#: Makes an index from the true one, which it may change.
Lie = Callable[[dict[str, Any]], bytes]


def _with(**values: Any) -> Lie:
    return lambda index: json.dumps({**index, **values}).encode()


def _with_length(length: str) -> Lie:
    """Replace the length of the first piece, a number in JSON."""
    return lambda index: json.dumps(index).replace(f'[[{PIECE}, "', f'[[{length}, "', 1).encode()


def _with_digest(digest: object) -> Lie:
    def lie(index: dict[str, Any]) -> bytes:
        index["pieces"][0][1] = digest
        return json.dumps(index).encode()

    return lie


def _other_digests(index: dict[str, Any]) -> bytes:
    index["pieces"] = [
        [length, base64.b64encode(Random(number).randbytes(32)).decode()]
        for number, (length, _) in enumerate(index["pieces"])
    ]
    return json.dumps(index).encode()


def _twice(index: dict[str, Any]) -> bytes:
    return b'{"pieces":%s,%s' % (
        json.dumps(index["pieces"]).encode(),
        json.dumps({**index, "pieces": []}).encode().removeprefix(b"{"),
    )


def _too_many(index: dict[str, Any]) -> bytes:
    pieces = b",".join([b'[1,"A"]'] * (MAX_PIECES + 1))
    return b'{"size":%d,"sha256":"%s","pieces":[%s]}' % (
        *(index["size"], index["sha256"].encode(), pieces),
    )


#: Indexes by which no box assembles.
UNUSABLE: dict[str, Lie] = {
    "nothing": lambda index: b"",
    "page": lambda index: b"<html><title>Log in</title></html>",
    "zeros": lambda index: bytes(500),
    "half": lambda index: json.dumps(index).encode()[:300],
    "list": lambda index: b"[]",
    "number": lambda index: b"1" * 10_000,
    "text": lambda index: json.dumps("pieces" * 100).encode(),
    "deep lists": lambda index: b"[" * MAX_INDEX,
    "deep objects": lambda index: b'{"pieces":' * (MAX_INDEX // 10),
    "too long by a byte": lambda index: json.dumps(index).encode().ljust(MAX_INDEX + 1),
    "gzip": lambda index: gzip.compress(json.dumps(index).encode()),
    "UTF-16": lambda index: json.dumps(index).encode("utf-16")[:-1],
    "too many pieces": _too_many,
    "no pieces": _with(pieces=[]),
    "pieces as object": _with(pieces={"ab": "cd"}),
    "pieces as number": _with(pieces=6),
    "one list": _with(pieces=[PIECE, "digest"]),
    "NaN": _with_length("NaN"),
    "Infinity": _with_length("Infinity"),
    "float": _with_length(f"{PIECE}.0"),
    "exponent": _with_length("1e999"),
    "boolean": _with_length("true"),
    "text as length": _with_length(f'"{PIECE}"'),
    "zero": _with_length("0"),
    "negative": _with_length(f"-{PIECE}"),
    "huge": _with_length("9" * 1000),
    "largest": _with_length(str(2**63)),
    "no digest": _with_digest(None),
    "short digest": _with_digest("AAAA"),
    "no Base64": _with_digest("ä" * 44),
    "list as digest": _with_digest(["A"] * 44),
    "size as float": lambda index: json.dumps({**index, "size": float(index["size"])}).encode(),
    "another size": _with(size=10**6),
    "boolean size": _with(size=True),
    "another archive": _with(sha256="0" * 64),
    "no SHA-256": _with(sha256=None),
    "a key twice": _twice,
    "unknown pieces": _other_digests,
}


@pytest.mark.parametrize("name", sample(list(UNUSABLE), 10))
@pytest_twisted.ensureDeferred
async def test_unusable_index(proxy: Proxy, download: Download, site: Site, name: str) -> None:
    """A box that cannot use an index downloads the whole in one request."""
    index = UNUSABLE[name](json.loads(json.dumps(site.index)))
    proxy.plan = once(INDEX, replaced(index, ("Content-Encoding", "gzip")))
    assert await download.fails(site.release) is None, proxy
    assert ranges(proxy) == [None]
    assert download.fetched == sent(proxy) == len(site.archive)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest_twisted.ensureDeferred
async def test_endless_index(proxy: Proxy, download: Download, site: Site, chunked: bool) -> None:
    """Of an index of a GB, with 10 million pieces and more, a box reads 1 MB."""
    times: list[None] = []
    pieces = b'[1,"%s"],' % (b"A" * 44) * 1000
    proxy.plan = once(INDEX, flood(pieces, times, chunked))
    assert await download.fails(site.release) is None, proxy
    assert ranges(proxy) == [None]
    # The rest is what the kernel's buffers have taken.
    assert len(times) * len(pieces) < 20e6


def _wrong_order(index: dict[str, Any], site: Site) -> None:
    known = index_pieces(site.old)
    index["pieces"] = [known[number] for number in (4, 2, 0, 3, 1, 5)]


def _moved(index: dict[str, Any], site: Site) -> None:
    pieces = index["pieces"]
    pieces[0], pieces[2] = pieces[2], pieces[0]


def _all_there(index: dict[str, Any], site: Site) -> None:
    index["pieces"] = index_pieces(site.old)


def _shifted(index: dict[str, Any], site: Site) -> None:
    """Make all ranges those of other bytes."""
    pieces = index["pieces"]
    pieces[1][0] += 1000
    pieces[3][0] -= 1000


def _one_again_and_again(index: dict[str, Any], site: Site) -> None:
    first, last = index["pieces"][0], index["pieces"][-1]
    index["pieces"] = [first] * 5 + [last]


#: Indexes of the right size that describe another archive.
WRONG: dict[str, Callable[[dict[str, Any], Site], None]] = {
    "all pieces are here, in the wrong order": _wrong_order,
    "digests of other pieces": _moved,
    "the old archive": _all_there,
    "other ranges": _shifted,
    "one piece again and again": _one_again_and_again,
}


def index_pieces(archive: bytes) -> list[list[Any]]:
    """List the pieces of an archive of this module as an index does."""
    ends = [*range(PIECE, len(archive) - PIECE + 1, PIECE), len(archive)]
    pieces = [archive[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return [
        [len(piece), base64.b64encode(bytes.fromhex(digest(piece))).decode()] for piece in pieces
    ]


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("name", WRONG)
@pytest_twisted.ensureDeferred
async def test_wrong_index(
    proxy: Proxy, download: Download, site: Site, name: str, signed: bool
) -> None:
    """An archive that was assembled wrongly is downloaded once more, as a whole."""
    index = json.loads(json.dumps(site.index))
    WRONG[name](index, site)
    lie = replaced(json.dumps(index).encode())
    proxy.plan = lambda request: lie if request.path == INDEX else None
    release = site.release if signed else Release(NEW)
    reason = await download.fails(release)
    assert reason == "The file has another SHA-256 than promised. Try again.", proxy
    assert await download.fails(release) is None, proxy
    assert ranges(proxy)[-1] is None
    assert sent(proxy) - len(site.archive) <= site.delta.fetched


@pytest.mark.parametrize("offset", sample(CUTS, 4))
@pytest_twisted.ensureDeferred
async def test_cut_index(proxy: Proxy, download: Download, site: Site, offset: int) -> None:
    """A box does without an index that breaks off at any byte."""
    cut = cut_body if offset % 2 else cut_head
    proxy.plan = once(INDEX, cut(offset, End.RESET if offset % 3 else End.CLOSE))
    assert await download.fails(site.release) is None, proxy
    assert sent(proxy) == len(site.archive)


#: Other answers to the request of an index.
NO_INDEX: dict[str, Mischief] = {
    "not found": status("404 Not Found"),
    "error": status("500 Internal Server Error"),
    "busy": status("503 Service Unavailable"),
    "busy for a day": status("503 Service Unavailable", ("Retry-After", "86400")),
    "busy for ever": status("503 Service Unavailable", ("Retry-After", "1")),
    "login": status("401 Unauthorized"),
    "empty": status("204 No Content"),
    "noise": Mischief("noise", lambda answer: Sending(bytes(range(256)) * 20, b"")),
    "silence": cut_head(0, End.IDLE_TIMEOUT),
    "silence after the header": cut_body(0, End.IDLE_TIMEOUT),
    "slow": drip(600, 1.0),
}


@pytest.mark.parametrize("name", sample(list(NO_INDEX), 4))
@pytest_twisted.ensureDeferred
async def test_no_index(
    hurried: Hurried, proxy: Proxy, download: Download, site: Site, name: str
) -> None:
    """Without an index a box downloads the whole, after a few minutes at most."""
    proxy.plan = lambda request: NO_INDEX[name] if request.path == INDEX else None
    begun = hurried.seconds()
    assert await download.fails(site.release) is None, proxy
    assert ranges(proxy) == [None]
    assert hurried.seconds() - begun < 900


@pytest_twisted.ensureDeferred
async def test_index_of_mirror(proxy: Proxy, mirror: Proxy, download: Download, site: Site) -> None:
    """A redirect of the index is not followed."""
    proxy.plan = once(INDEX, status("302 Found", ("Location", f"{mirror.url}{INDEX}")))
    assert await download.fails(site.release) is None, proxy
    assert (ranges(proxy), mirror.passed) == ([None], [])


# Ranges that lie


def _having(name: str, *values: str) -> Mischief:
    return Mischief(f"{name} {values}", lambda answer: as_it_is(answer.having(name, *values)))


def _longer(more: bytes) -> Mischief:
    def send(answer: Message) -> Sending:
        body = answer.body + more
        return as_it_is(evolve(answer, body=body).having("Content-Length", str(len(body))))

    return Mischief("too many bytes", send)


def _chunked(more: bytes) -> Mischief:
    def send(answer: Message) -> Sending:
        body = answer.body + more
        head = answer.having("Content-Length").having("Transfer-Encoding", "chunked").head
        return Sending(head, b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))

    return Mischief("too many bytes in a chunk", send)


def _multipart(answer: Message) -> Sending:
    part = b"--x\r\nContent-Range: %s\r\n\r\n" % (answer.get("Content-Range") or "").encode()
    body = part + answer.body + b"\r\n--x--\r\n"
    several = evolve(answer, body=body).having("Content-Range")
    several = several.having("Content-Type", "multipart/byteranges; boundary=x")
    return as_it_is(several.having("Content-Length", str(len(body))))


def _of(version: int) -> Mischief:
    """Send the range of another archive."""
    return Mischief(
        f"of {version}",
        as_it_is,
        lambda request: evolve(request, first=request.first.replace(str(NEW), str(version))),
    )


_TOTAL = 6 * PIECE + 14
_SPAN = f"{PIECE}-{2 * PIECE - 1}"

#: Answers to the request of the first range, which is that of the second piece.
RANGES: dict[str, Mischief] = {
    "start too small": _having("Content-Range", f"bytes {PIECE - 1}-{2 * PIECE - 1}/{_TOTAL}"),
    "start too large": _having("Content-Range", f"bytes {PIECE + 1}-{2 * PIECE - 1}/{_TOTAL}"),
    "end too small": _having("Content-Range", f"bytes {PIECE}-{PIECE}/{_TOTAL}"),
    "end too large": _having("Content-Range", f"bytes {PIECE}-{_TOTAL - 1}/{_TOTAL}"),
    "end before start": _having("Content-Range", f"bytes {PIECE}-1/{_TOTAL}"),
    "total too small": _having("Content-Range", f"bytes {_SPAN}/{2 * PIECE}"),
    "total too large": _having("Content-Range", f"bytes {_SPAN}/{_TOTAL + 1}"),
    "total unknown": _having("Content-Range", f"bytes {_SPAN}/*"),
    "huge": _having("Content-Range", f"bytes {_SPAN}/{'9' * 18}"),
    "no Content-Range": _having("Content-Range"),
    "two of them": _having("Content-Range", f"bytes {_SPAN}/{_TOTAL}", f"bytes 0-9/{_TOTAL}"),
    "unsatisfied": _having("Content-Range", f"bytes */{_TOTAL}"),
    "noise in it": _having("Content-Range", "bytes=1-2"),
    "the whole": Mischief("200", as_it_is, lambda request: request.having("Range")),
    "an earlier range": other_range(-PIECE),
    "another range": other_range(1000),
    "everything from there": Mischief(
        "no end", as_it_is, lambda request: request.having("Range", f"bytes={PIECE}-")
    ),
    "a byte too many": _longer(b"x"),
    "many bytes too many": _longer(bytes(500_000)),
    "too many bytes in a chunk": _chunked(bytes(500_000)),
    "too few bytes": replaced(b"x" * 1000),
    "no bytes": replaced(b""),
    "multipart": Mischief("multipart", _multipart),
    "gzip": Mischief("gzip", lambda answer: replaced(gzip.compress(answer.body)).send(answer)),
    "not satisfiable": status("416 Range Not Satisfiable", ("Content-Range", f"bytes */{_TOTAL}")),
    "not satisfiable, another size": status(
        "416 Range Not Satisfiable", ("Content-Range", "bytes */10")
    ),
    "busy": status("503 Service Unavailable", ("Retry-After", "2")),
    "overloaded": status("503 Service Unavailable"),
    "too many requests": status("429 Too Many Requests", ("Retry-After", "30")),
    "forbidden": status("403 Forbidden"),
    "gone": status("404 Not Found"),
    "login page": replaced(b"<html>", ("Content-Type", "text/html")),
    "noise": Mischief("noise", lambda answer: Sending(bytes(range(256)) * 20, b"")),
    "reset after the header": cut_body(0),
    "reset in the header": cut_head(40),
    "end after the header": cut_body(0, End.CLOSE),
    "silence": cut_head(0, End.IDLE_TIMEOUT),
    "silence in the middle": cut_body(PIECE // 2, End.IDLE_TIMEOUT),
    "slow": drip(50, 0.001),
    "other bytes": other_bytes(),
    "another archive": _of(SAME_SIZE),
    "a larger archive": _of(LARGER),
    "redirect to nothing": status("302 Found"),
    "redirect to itself": status("302 Found", ("Location", ARCHIVE)),
}

#: The reasons of those after which the download fails at first.
FAILS = {
    "gone": "answers 404",
    "other bytes": "another SHA-256",
    "another archive": "another SHA-256",
    "gzip": "another SHA-256",
    "too few bytes": "another SHA-256",
    "login page": "another SHA-256",
}


@pytest.mark.parametrize("name", sample(list(RANGES), 12))
@pytest_twisted.ensureDeferred
async def test_range(
    hurried: Hurried, proxy: Proxy, download: Download, site: Site, name: str
) -> None:
    """After an odd answer to a range the right archive arrives, with one more download at most."""
    proxy.plan = once(ARCHIVE, RANGES[name])
    begun = hurried.seconds()
    if (reason := await download.fails(site.release)) is not None:
        assert FAILS[name] in reason, proxy
        assert_clear(reason)
        assert await download.fails(site.release) is None, proxy
    assert sent(proxy) <= site.delta.fetched + len(site.archive), proxy
    assert hurried.seconds() - begun < 900


@pytest_twisted.ensureDeferred
async def test_endless_range(proxy: Proxy, download: Download, site: Site) -> None:
    """Of a range of a GB a box reads what it has asked for."""
    times: list[None] = []
    proxy.plan = once(ARCHIVE, flood(bytes(10_000), times))
    assert await download.fails(site.release) is None, proxy
    assert len(times) * 10_000 < 20e6


def _always(mischief: Mischief) -> Plan:
    return lambda request: mischief if request.path == ARCHIVE and request.get("Range") else None


#: Networks on which no range ever arrives.
BROKEN = {
    "reset": cut_head(0),
    "reset after the header": cut_body(0),
    "closed": cut_body(0, End.CLOSE),
    "silence": cut_head(0, End.IDLE_TIMEOUT),
    "forbidden": status("403 Forbidden"),
    "error": status("500 Internal Server Error"),
    "not satisfiable": status("416 Range Not Satisfiable"),
    "noise": Mischief("noise", lambda answer: Sending(b"noise", b"")),
    "never that range": other_range(10),
}


@pytest.mark.parametrize("name", sample(list(BROKEN), 3))
@pytest_twisted.ensureDeferred
async def test_no_ranges(proxy: Proxy, download: Download, site: Site, name: str) -> None:
    """Where ranges never arrive, the whole does."""
    proxy.plan = _always(BROKEN[name])
    assert await download.fails(site.release) is None, proxy
    assert ranges(proxy)[-1] is None


# Mirrors and older servers


@pytest.mark.parametrize("version", [SAME_SIZE, LARGER], ids=["same size", "another size"])
@pytest_twisted.ensureDeferred
async def test_mirror_with_another_file(
    proxy: Proxy, mirror: Proxy, download: Download, site: Site, version: int
) -> None:
    """A mirror with another file is not believed, and the server is, later."""
    mirror.plan = lambda request: _of(version)
    redirect = status("307 Temporary Redirect", ("Location", f"{mirror.url}{ARCHIVE}"))
    proxy.plan = lambda request: redirect if request.path == ARCHIVE else None
    for expected in (site.delta.fetched, *[len(site.archive)] * 2):
        before = mirror.body_bytes.get(ARCHIVE, 0)
        reason = await download.fails(site.release)
        assert reason is not None
        assert_clear(reason)
        travelled = mirror.body_bytes[ARCHIVE] - before
        assert travelled <= expected if version == SAME_SIZE else True
    proxy.plan = honest
    assert await download.fails(site.release) is None, proxy


@pytest.mark.parametrize("has_ranges", [True, False], ids=["ranges", "no ranges"])
@pytest_twisted.ensureDeferred
async def test_mirror(
    start: StartDaemon,
    hurried: Hurried,
    proxy: Proxy,
    site: Site,
    tmp_path: Path,
    has_ranges: bool,
) -> None:
    """The index comes from the server, and the ranges from its mirror, or else the whole."""
    updates = tmp_path / "updates"
    updates.mkdir()
    (updates / str(UpdateName(NEW))).write_bytes(site.archive)
    server = await started(start, updates, "--mirror", proxy.url)
    if not has_ranges:
        proxy.plan = lambda request: Mischief("200", as_it_is, lambda each: each.having("Range"))
    download = Download(hurried, server.url, site.archive, tmp_path / "archives", proxy)
    download.keep_as_last_good(site.old)
    assert await download.fails(site.release) is None, proxy
    assert {request.path for request, _ in proxy.passed} == {ARCHIVE}
    assert sent(proxy) == (site.delta.fetched if has_ranges else len(site.archive))


@pytest_twisted.ensureDeferred
async def test_older_server(spawn: Spawn, hurried: Hurried, site: Site, tmp_path: Path) -> None:
    """The older server has no index, and sends the whole."""
    updates = tmp_path / "updates"
    updates.mkdir()
    (updates / str(UpdateName(NEW))).write_bytes(site.archive)
    server = await spawn(sys.executable, older_server.__file__, updates).ready()
    download = Download(hurried, server.url, site.archive, tmp_path / "archives")
    download.keep_as_last_good(site.old)
    assert await download.fails(site.release) is None
    assert download.fetched == len(site.archive)


@pytest_twisted.ensureDeferred
async def test_index_lost(proxy: Proxy, download: Download, site: Site) -> None:
    """When the server loses the index half-way, the next try goes on with what is here."""

    def until_there(request: Message) -> Mischief | None:
        if request.path != ARCHIVE:
            return None
        return cut_body(1000) if len(ranges(proxy)) < 1 else status("404 Not Found")

    proxy.plan = until_there
    assert "answers 404" in (await download.fails(site.release) or "")
    proxy.plan = lambda request: status("404 Not Found") if request.path == INDEX else None
    assert await download.fails(site.release) is None, proxy
    assert ranges(proxy)[-1] == f"bytes={PIECE + 1000}-"
    assert download.fetched == len(site.archive) - PIECE


# The last good archive


def _link(path: Path) -> None:
    elsewhere = path.parent.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _older_builder(path: Path) -> None:
    path.write_bytes(MAGIC + Random(1).randbytes(6 * PIECE) + concatenated([b""]))


#: The state of the last good archive before the download.
LAST_GOOD: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "link": _link,
    "FIFO": _fifo,
    "folder": _folder,
    "empty": lambda path: path.write_bytes(b""),
    "one stream": _older_builder,
    "cut off": lambda path: os.truncate(path, PIECE // 2),
    "zeros": lambda path: path.write_bytes(bytes(6 * PIECE)),
    "many magics": lambda path: path.write_bytes(MAGIC * (MAX_PIECES + 1)),
    "a lie in its index": lambda path: _kept_index(path).write_bytes(_index_of_other(path)),
}


def _kept_index(path: Path) -> Path:
    return path.with_name(f"{path.name}.pieces")


def _index_of_other(path: Path) -> bytes:
    """Make an index of another archive of the same size, with no piece of the new one."""
    size = path.stat().st_size
    pieces = [[size, base64.b64encode(bytes(32)).decode()]]
    return json.dumps({"size": size, "sha256": "0" * 64, "pieces": pieces}).encode()


@pytest.mark.parametrize("name", sample(list(LAST_GOOD), 5))
@pytest_twisted.ensureDeferred
async def test_last_good(proxy: Proxy, download: Download, site: Site, name: str) -> None:
    """Without a last good archive of use, the whole is downloaded."""
    LAST_GOOD[name](download.last_good)
    assert await download.fails(site.release) is None, proxy
    assert ranges(proxy) == [None]


#: Indexes beside the last good archive that are of no use.
KEPT: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(bytes(range(256))),
    "too much": lambda path: path.write_bytes(b"[" * (MAX_INDEX + 1)),
    "folder": Path.mkdir,
    "FIFO": os.mkfifo,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("name", sample(list(KEPT), 3))
@pytest_twisted.ensureDeferred
async def test_kept_index(proxy: Proxy, download: Download, site: Site, name: str) -> None:
    """Without the index of the last good archive the box reads the archive instead."""
    KEPT[name](_kept_index(download.last_good))
    assert await download.fails(site.release) is None, proxy
    assert download.fetched == sent(proxy) == site.delta.fetched


@pytest_twisted.ensureDeferred
async def test_wrong_kept_index(proxy: Proxy, download: Download, site: Site) -> None:
    """Pieces that are not where the kept index says they are travel."""
    document = {**site.index, "pieces": index_pieces(site.archive)}
    _kept_index(download.last_good).write_text(json.dumps(document))
    assert await download.fails(site.release) is None, proxy
    assert sent(proxy) == site.delta.fetched


def _rot(path: Path) -> None:
    """Flip a byte of each piece."""
    with path.open("r+b") as file:
        for start in range(0, 6 * PIECE, PIECE):
            file.seek(start + 1000)
            file.write(bytes([file.peek(1)[0] ^ 1]))


def _replace(path: Path) -> None:
    new = path.with_name("new")
    new.write_bytes(bytes(6 * PIECE))
    new.rename(path)


#: What becomes of the last good archive, and the bytes that travel.
MEANWHILE: dict[str, tuple[Callable[[Path], object], int]] = {
    "rots": (_rot, 5 * PIECE),
    "is cut off": (lambda path: os.truncate(path, 0), 5 * PIECE),
    "is written anew": (lambda path: path.write_bytes(bytes(6 * PIECE)), 5 * PIECE),
    "is replaced": (_replace, 3 * PIECE),
    "is removed": (Path.unlink, 3 * PIECE),
}


@pytest.mark.parametrize("name", MEANWHILE)
@pytest_twisted.ensureDeferred
async def test_last_good_changes(proxy: Proxy, download: Download, site: Site, name: str) -> None:
    """A piece that changes before it is copied travels, and a file that is open stays there."""
    change, travels = MEANWHILE[name]

    def strike(request: Message) -> None:
        # The first piece may have been copied then.
        if request.path == ARCHIVE and len(ranges(proxy)) == 0:
            change(download.last_good)

    proxy.plan = strike
    assert await download.fails(site.release) is None, proxy
    # The request for the next range may have come before the change, and may be made in vain.
    assert travels <= download.fetched <= sent(proxy) < travels + 3 * PIECE


# A real release


@pytest_twisted.ensureDeferred
async def test_changed_line(
    start: StartDaemon, spawn: Spawn, updates: Path, tmp_path: Path
) -> None:
    """Of a release with one changed line little travels, and the box says how much."""
    sensor = shutil.copytree(ROOT / "examples" / "mysensor", tmp_path / "mysensor")
    for number in range(4):
        (sensor / f"table-{number}").write_bytes(Random(number).randbytes(300_000))
    script = tmp_path / "install_update.sh"
    script.write_bytes(INSTALL)
    for version, folder in ((OLD, tmp_path), (NEW, updates)):
        await succeed(
            *(sys.executable, ROOT / "build_update.py", "--no-wheels", "--version", version),
            *("--output-dir", folder, f"--component=mysensor={sensor}"),
            *("--install-script", script),
        )
        with (sensor / "mysensor.py").open("a") as file:
            file.write("# changed\n")
    old, new = tmp_path / str(UpdateName(OLD)), updates / str(UpdateName(NEW))
    size, travels = new.stat().st_size, compare(index_of(new), index_of(old)).fetched
    assert size > 1_000_000
    assert travels < size / 10

    server = await started(start, updates)
    # Each range stops, so that the box can be asked.
    stop = cut_body(100, End.IDLE_TIMEOUT)
    proxy = Proxy(server.port, lambda request: stop if request.path == ARCHIVE else None)
    box = Box(spawn, tmp_path / "box")
    box.install(OLD)
    box.keep_as_last_good(old)
    await box.start_with(proxy.url)
    await box.click()
    status = await box.shows(lambda status: status["progress"] and status["progress"]["here"])
    progress = status["progress"]
    assert (progress["total"], progress["here"]) == (travels, size - travels), status
    await box.agent.stop(signal.SIGTERM)
    proxy.plan = honest
    await box.start()
    await box.reboots_to(NEW)
    status = await box.status()
    assert (status["last_attempt"]["fetched"], status["last_attempt"]["size"]) == (travels, size)
    assert travels <= sent(proxy) <= travels + 100
    await maybeDeferred(proxy.close)
