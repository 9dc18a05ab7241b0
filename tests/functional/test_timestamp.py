"""The update server keeps signed metadata fresh, and real clients accept its timestamps."""

import os
import signal
from pathlib import Path

import pytest
import pytest_twisted
from tuf.api.exceptions import RepositoryError
from tuf.ngclient import TargetFile, Updater
from twisted.internet.threads import deferToThread

from opq_twisted.trust import keys
from tests.functional.conftest import StartDaemon
from tests.functional.nginx import Answer, ask, cached
from tests.functional.processes import Server, curl, get, until
from tests.functional.update_server import archive, metrics, started
from tests.helpers.signed_metadata import Signed, channel, make_key, write_key

RELEASE = 1547860803
NEWER = 1547860900

SIGNED = r"signed timestamp \d+ for {}.snapshot.json: "


class PythonTufClient:
    """python-tuf's own client, which trusts the first root and remembers the metadata."""

    def __init__(self, folder: Path, signed: Signed) -> None:
        self._cache = folder / "cache"
        self._cache.mkdir(parents=True)
        self._root = (signed.folder / "1.root.json").read_bytes()

    async def looks_up(self, server: Server, name: str = "stable") -> TargetFile | None:
        """Run python-tuf's client workflow over the network."""

        def look() -> TargetFile | None:
            updater = Updater(str(self._cache), f"{server.url}/tuf", bootstrap=self._root)
            updater.refresh()
            return updater.get_targetinfo(name)

        return await deferToThread(look)


@pytest.fixture
def signed(updates: Path) -> Signed:
    return Signed(updates).init()


@pytest.fixture
def box(tmp_path: Path, signed: Signed) -> PythonTufClient:
    return PythonTufClient(tmp_path / "box", signed)


def key(tmp_path: Path, signed: Signed) -> tuple[object, ...]:
    """Write the timestamp's key to a file; returns the options that name it."""
    return "--timestamp-key", write_key(tmp_path / "timestamp.pem", signed.keys["timestamp"])


async def until_metrics(server: Server, **expected: float) -> dict[tuple[str, ...], float]:
    """Wait until the metrics of the metadata are these, and return all of them."""
    values = {(f"opq_tuf_{name}",): value for name, value in expected.items()}
    return await until(lambda: metrics(server), lambda found: values.items() <= found.items())


@pytest_twisted.ensureDeferred
async def test_release(
    start: StartDaemon, updates: Path, tmp_path: Path, signed: Signed, box: PythonTufClient
) -> None:
    """A snapshot that is put into the folder is announced at once."""
    server = await started(start, updates, *key(tmp_path, signed), "--heartbeat", 3600)
    await server.says("There is no snapshot to announce")
    path = archive(updates, RELEASE)
    signed.publish(1, path)
    await server.says(SIGNED.format(1))
    assert await box.looks_up(server) == channel(path)
    newer = archive(updates, NEWER)
    signed.publish(2, path, newer)
    await server.says(SIGNED.format(2))
    assert await box.looks_up(server) == channel(newer)
    assert (signed.folder / "timestamp.json").stat().st_mode & 0o777 == 0o644
    found = await until_metrics(server, timestamp_problem=0, timestamps_signed_total=2)
    assert found["opq_tuf_version", "snapshot"] == 2
    assert found["opq_requests_total", "/tuf", "200"] > 0


@pytest_twisted.ensureDeferred
async def test_any_order(
    start: StartDaemon, updates: Path, tmp_path: Path, signed: Signed, box: PythonTufClient
) -> None:
    """A release is announced when all its files are there, in whatever order they arrive."""
    server = await started(start, updates, *key(tmp_path, signed), "--heartbeat", 3600)
    path = archive(tmp_path, RELEASE)
    whole = signed.targets(1, {"stable": channel(path)}).to_bytes()
    targets = signed.folder / "1.targets.json"
    targets.unlink()
    signed.snapshot(1, 1)
    await server.says("Snapshot 1 is not announced yet: 1.targets.json is not there")
    await until_metrics(server, timestamp_problem=1)
    with targets.open("wb") as file:
        file.write(whole[:100])
        file.flush()
        os.utime(targets)
        await server.says("1.targets.json is damaged or incomplete")
        assert (await curl(f"{server.url}/tuf/1.targets.json"))[0] == 404
        file.write(whole[100:])
    await server.says(f"which is not here or not whole: copy {path.name} to this server")
    assert (await curl(f"{server.url}/tuf/timestamp.json"))[0] == 404
    path.rename(updates / path.name)
    await server.says(SIGNED.format(1))
    assert await box.looks_up(server) == channel(updates / path.name)
    await until_metrics(server, timestamp_problem=0)


@pytest_twisted.ensureDeferred
async def test_folder_comes_and_goes(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """A metadata folder that is created later, removed or replaced is watched."""
    away = tmp_path / "away"
    away.mkdir()
    first = Signed(away)
    server = await started(start, updates, *key(tmp_path, first), "--heartbeat", 3600)
    assert (await curl(f"{server.url}/tuf/1.root.json"))[0] == 404
    first.init().publish(1)
    first.folder.rename(updates / "tuf")
    await server.says(SIGNED.format(1))
    first.folder = updates / "tuf"
    first.publish(2)
    await server.says(SIGNED.format(2))
    (updates / "tuf").rename(away / "tuf")
    await until_metrics(server, timestamp_problem=1)
    assert await curl(f"{server.url}/") == (200, "")
    first.folder = away / "tuf"
    first.publish(3)
    first.folder.rename(updates / "tuf")
    await server.says(SIGNED.format(3))
    await until_metrics(server, timestamp_problem=0)


@pytest_twisted.ensureDeferred
async def test_heartbeat_alone(
    start: StartDaemon, updates: Path, tmp_path: Path, signed: Signed, box: PythonTufClient
) -> None:
    """A change without an event, such as a changed link, is found by the heartbeat."""
    signed.publish(1)
    (updates / "tuf").rename(updates / "behind")
    (updates / "tuf").symlink_to("between")
    (updates / "between").symlink_to("behind")
    server = await started(start, updates, *key(tmp_path, signed), "--heartbeat", 0.2)
    await server.says(SIGNED.format(1))
    (updates / "other").mkdir()
    for path in (updates / "behind").iterdir():
        (updates / "other" / path.name).write_bytes(path.read_bytes())
    (updates / "next").symlink_to("other")
    (updates / "next").rename(updates / "between")
    signed.folder = updates / "other"
    signed.publish(2)
    await server.says(SIGNED.format(2))
    assert await box.looks_up(server) is None


@pytest_twisted.ensureDeferred
async def test_key_rotated(
    start: StartDaemon, updates: Path, tmp_path: Path, signed: Signed, box: PythonTufClient
) -> None:
    """After a key rotation the server signs with the new key, and boxes accept that."""
    path = archive(updates, RELEASE)
    signed.publish(1, path)
    server = await started(start, updates, *key(tmp_path, signed))
    await server.says(SIGNED.format(1))
    await box.looks_up(server)
    before = signed.read_timestamp().version
    signed.rotate("timestamp", 2)
    await server.says("is not one that version 2 of root names for timestamp")
    await until_metrics(server, timestamp_problem=1)
    with pytest.raises(RepositoryError):
        await box.looks_up(server)
    assert await curl(f"{server.url}/") == (200, "")
    assert await server.stop() == -signal.SIGTERM
    server = await started(start, updates, *key(tmp_path, signed))
    await server.says(SIGNED.format(1) + "there was none that boxes accept")
    assert await box.looks_up(server) == channel(path)
    # Boxes forget the timestamps of the old key, so the same version is valid.
    assert signed.read_timestamp().version >= before


@pytest_twisted.ensureDeferred
async def test_half_life(start: StartDaemon, updates: Path, tmp_path: Path, signed: Signed) -> None:
    """A timestamp that has less than half of its life left is replaced."""
    signed.publish(1)
    signed.timestamp(5, 1, days=3.4)
    server = await started(start, updates, *key(tmp_path, signed))
    await server.says(SIGNED.format(1) + "half of the old one's life is over")
    found = await until_metrics(server, timestamp_problem=0, timestamps_signed_total=1)
    assert 6.9 < found["opq_tuf_days_left", "timestamp"] < 7.1
    assert signed.read_timestamp().version > 1_700_000_000


@pytest_twisted.ensureDeferred
async def test_another_server_signs(
    start: StartDaemon, updates: Path, signed: Signed, box: PythonTufClient
) -> None:
    """Without a key the server serves the metadata, writes no file, and reports its state."""
    path = archive(updates, RELEASE)
    signed.publish(1, path)
    signed.timestamp(5, 1, days=2)
    before = {each: each.stat().st_ctime_ns for each in signed.folder.iterdir()}
    server = await started(start, updates)
    await server.says("timestamp.json expires in 2.0 days")
    assert await box.looks_up(server) == channel(path)
    found = await until_metrics(server, timestamp_problem=0)
    for role, days in {"root": 365, "targets": 365, "snapshot": 365, "timestamp": 2}.items():
        assert days - 0.1 < found["opq_tuf_days_left", role] < days + 0.1
    assert {each: each.stat().st_ctime_ns for each in signed.folder.iterdir()} == before


@pytest_twisted.ensureDeferred
async def test_without_metadata(start: StartDaemon, updates: Path) -> None:
    """A directory without `tuf` is served as before, without any word about metadata."""
    archive(updates, RELEASE)
    server = await started(start, updates)
    assert await curl(f"{server.url}/version") == (200, str(RELEASE))
    for path in ("tuf", "tuf/", "tuf/1.root.json", "tuf/timestamp.json"):
        assert (await curl(f"{server.url}/{path}"))[0] == 404
    assert not [name for name in await metrics(server) if name[0].startswith("opq_tuf")]
    assert not (updates / "tuf").exists()
    assert await server.stop() == -signal.SIGTERM
    assert "tuf" not in server.output.replace("/tuf", "")


@pytest_twisted.ensureDeferred
async def test_cannot_write(
    start: StartDaemon, updates: Path, tmp_path: Path, signed: Signed
) -> None:
    """If the timestamp cannot be written the log says so, and other metadata is served."""
    signed.publish(1)
    (signed.folder / "timestamp.json").mkdir()
    server = await started(start, updates, *key(tmp_path, signed), "--heartbeat", 0.1)
    await server.says("Cannot write .*timestamp.json: Is a directory")
    await until_metrics(server, timestamp_problem=1)
    assert (await get(f"{server.url}/tuf/1.root.json")).startswith(b"{")
    (signed.folder / "timestamp.json").rmdir()
    await server.says(SIGNED.format(1))
    await until_metrics(server, timestamp_problem=0)
    assert server.output.count("Cannot write") == 1


@pytest_twisted.ensureDeferred
async def test_encrypted_key(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """The key may be encrypted; its passphrase comes from a file or the environment."""
    signed = Signed(updates)
    signed.keys["timestamp"] = keys.create(tmp_path, "timestamp", b"open sesame")
    (path,) = tmp_path.glob("timestamp-*.pem")
    signed.init().publish(1)
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("open sesame\n")
    server = await started(
        start, updates, "--timestamp-key", path, "--timestamp-passphrase-file", passphrase
    )
    await server.says(SIGNED.format(1))
    await server.stop()
    signed.publish(2)
    server = start(
        *("opq-update-server", "--updates-dir", updates, "--timestamp-key", path),
        env={"OPQ_TIMESTAMP_PASSPHRASE": "open sesame"},
    )
    await server.says(SIGNED.format(2))
    server = start("opq-update-server", "--updates-dir", updates, "--timestamp-key", path)
    await server.refuses_to_start(f"The key {path} is encrypted, and no passphrase was given.")


async def kept(nginx: Server, path: str) -> Answer:
    """Repeat a request until nginx has stored the response, shortly after the first one."""
    return await until(
        lambda: ask(nginx, path), lambda answer: answer.headers["X-Cache-Status"] == "HIT"
    )


@pytest_twisted.ensureDeferred
async def test_behind_nginx(
    start: StartDaemon,
    spawn: StartDaemon,
    updates: Path,
    tmp_path: Path,
    signed: Signed,
    box: PythonTufClient,
) -> None:
    """nginx stores numbered files, never the timestamp, and no missing file."""
    path = archive(updates, RELEASE)
    signed.publish(1, path)
    origin, nginx = await cached(start, spawn, updates, *key(tmp_path, signed))
    await origin.says(SIGNED.format(1))
    assert await box.looks_up(nginx) == channel(path)
    for name in ("1.root.json", "1.targets.json", "1.snapshot.json"):
        direct, answer = await ask(origin, f"/tuf/{name}"), await kept(nginx, f"/tuf/{name}?x")
        assert (answer.body, answer.headers["ETag"]) == (direct.body, direct.headers["ETag"])
        assert answer.headers["Content-Type"] == "application/json"
    assert (await ask(nginx, "/tuf/2.root.json")).status == 404
    signed.root(2, signers=[make_key()])
    await origin.says("No box will accept 2.root.json")
    assert (await ask(nginx, "/tuf/2.root.json")).headers["Cache-Control"] == "no-store"
    wrong = (signed.folder / "2.root.json").read_bytes()
    signed.root(2)
    assert (await ask(nginx, "/tuf/2.root.json")).body != wrong
    newer = archive(updates, NEWER)
    signed.publish(2, newer)
    await origin.says(SIGNED.format(2))
    assert (await ask(nginx, "/tuf/2.root.json")).status == 200
    assert await box.looks_up(nginx) == channel(newer)
    for answer in [await ask(nginx, "/tuf/timestamp.json") for _ in range(2)]:
        assert answer.headers["Cache-Control"] == "no-cache"
        assert "X-Cache-Status" not in answer.headers


@pytest_twisted.ensureDeferred
async def test_mirror(
    start: StartDaemon, updates: Path, tmp_path: Path, signed: Signed, box: PythonTufClient
) -> None:
    """A server that redirects archives to a mirror serves the metadata itself."""
    path = archive(updates, RELEASE)
    signed.publish(1, path)
    mirror = ("--mirror", "https://mirror.example.org")
    server = await started(start, updates, *mirror, *key(tmp_path, signed))
    await server.says(SIGNED.format(1))
    assert await box.looks_up(server) == channel(path)
