"""The server's offers match its directory again after any change or fault."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import pytest_twisted

from opq_twisted.archive.name import UpdateName
from tests.functional.conftest import StartDaemon
from tests.functional.processes import (
    Server,
    curl,
    daemon_command,
    get,
    require,
    succeed,
    until,
    without_capabilities,
)
from tests.functional.update_server import archive, metrics, offers, started
from tests.helpers.privileges import own_mounts

#: A heartbeat later than the end of every test: changes are found without it.
NEVER = ("--heartbeat", 86400)

#: A heartbeat that a test can wait for.
SOON = ("--heartbeat", 0.2)


def link_many(source: Path, folder: Path, count: int) -> None:
    """Link many archives into a folder, which is faster than copies."""
    for version in range(1000, 1000 + count):
        os.link(source, folder / str(UpdateName(version)))


async def answers_with(server: Server, status: int) -> str:
    """Wait until `/` responds with a status; returns the text."""
    _, text = await until(lambda: curl(f"{server.url}/"), lambda answer: answer[0] == status)
    return text


@pytest_twisted.ensureDeferred
async def test_twenty_thousand(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """20,000 archives that arrive at once are all offered, without a heartbeat."""
    source = archive(tmp_path, 1)
    server = await started(start, updates, *NEVER)
    link_many(source, updates, 20_000)
    await offers(server, *range(1000, 21_000))
    assert await curl(f"{server.url}/version") == (200, "20999")
    assert (await metrics(server))["opq_archives",] == 20_000


@pytest_twisted.ensureDeferred
async def test_lost_events(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """After an overflow of the kernel's event queue all changes are found."""
    source = archive(tmp_path, 1)
    server = await started(start, updates, *NEVER)
    os.kill(server.pid, signal.SIGSTOP)
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    link_many(source, updates, limit + 1000)
    (updates / str(UpdateName(1000))).unlink()
    os.kill(server.pid, signal.SIGCONT)
    await offers(server, *range(1001, 2000 + limit))
    found = await metrics(server)
    assert found["opq_event_queue_overflows_total",] >= 1
    assert found["opq_rescans_total", "overflow"] >= 1
    archive(updates, 5)
    await offers(server, 5, *range(1001, 2000 + limit))


@pytest_twisted.ensureDeferred
async def test_deleted_and_created_again(start: StartDaemon, updates: Path) -> None:
    """A directory that is deleted and created again is read and watched as before."""
    archive(updates, 1)
    server = await started(start, updates, *NEVER)
    shutil.rmtree(updates)
    await server.says("Cannot read the updates directory")
    assert str(updates) in await answers_with(server, 503)
    updates.mkdir()
    archive(updates, 2)
    await offers(server, 2)
    assert await curl(f"{server.url}/") == (200, "")
    archive(updates, 3)
    await offers(server, 2, 3)


@pytest_twisted.ensureDeferred
async def test_replaced_by_a_rename(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """A directory that replaces another is read and watched."""
    archive(updates, 1)
    server = await started(start, updates, *NEVER)
    for version in (2, 3):
        new = tmp_path / "new"
        new.mkdir()
        archive(new, version)
        updates.rename(tmp_path / f"old {version}")
        new.rename(updates)
        await offers(server, version)
    archive(updates, 4)
    await offers(server, 3, 4)


@pytest_twisted.ensureDeferred
async def test_moved_away(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """While the directory is away the server lists the known archives; downloads get 503."""
    path = archive(updates, 1)
    server = await started(start, updates, *NEVER)
    updates.rename(tmp_path / "away")
    await answers_with(server, 503)
    assert await curl(f"{server.url}/version") == (200, "1")
    assert await curl(f"{server.url}/ls") == (200, f"{path.name}\n")
    status, sentence = await curl(f"{server.url}/update/{path.name}")
    assert (status, sentence) == (
        503,
        "This update cannot be read now. Try again in a little while.\n",
    )
    (tmp_path / "away").rename(updates)
    await answers_with(server, 200)
    assert await get(f"{server.url}/latest") == path.read_bytes()


@pytest_twisted.ensureDeferred
async def test_link_to_another_directory(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """A changed symbolic link, which causes no event, is found by the heartbeat."""
    other = tmp_path / "other"
    other.mkdir()
    archive(updates, 1)
    archive(other, 2)
    (tmp_path / "link").symlink_to(updates)
    server = await started(start, tmp_path / "link", *SOON)
    await offers(server, 1)
    (tmp_path / "next").symlink_to(other)
    (tmp_path / "next").rename(tmp_path / "link")
    await offers(server, 2)
    archive(other, 3)
    await offers(server, 2, 3)


@pytest.mark.root
@pytest_twisted.ensureDeferred
async def test_permission_lost(spawn: StartDaemon, updates: Path) -> None:
    """Without permission `/` gets 503, and known versions are sent; permission restores all."""
    path = archive(updates, 1)
    command = daemon_command("opq-update-server", "--updates-dir", updates, *SOON)
    server = await spawn(*without_capabilities(), *command).ready()
    await offers(server, 1)
    for mode in (0o000, 0o444, 0o111):
        updates.chmod(mode)
        assert "Permission denied" in await answers_with(server, 503)
        assert await curl(f"{server.url}/version") == (200, "1")
        updates.chmod(0o755)
        await answers_with(server, 200)
        assert await get(f"{server.url}/latest") == path.read_bytes()
    archive(updates, 2)
    await offers(server, 1, 2)


async def in_its_mounts(server: Server, *command: object) -> None:
    """Run a command that sees the mounts of the server."""
    as_root = [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]
    await succeed("nsenter", "-t", server.pid, "-m", *as_root, *command)


@pytest.mark.root
@pytest_twisted.ensureDeferred
async def test_mounted_over(spawn: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """A file system mounted over the directory is read and watched; so is the directory later."""
    for program in ("unshare", "nsenter"):
        require(program)
    archive(updates, 1)
    source = archive(tmp_path, 2)
    command = daemon_command("opq-update-server", "--updates-dir", updates, *SOON)
    server = await spawn(*own_mounts(), *command).ready()
    await offers(server, 1)
    for _ in range(2):
        await in_its_mounts(server, "mount", "-t", "tmpfs", "none", updates)
        await offers(server)
        await in_its_mounts(server, "cp", source, updates)
        await offers(server, 2)
        # The server may be reading a file there, so the plain command can find the target busy.
        await in_its_mounts(server, "umount", "--lazy", updates)
        await offers(server, 1)
    archive(updates, 3)
    await offers(server, 1, 3)
