"""The box agent in whole updates: real processes, real sockets, real archives."""

import base64
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from opq_twisted.archive.name import TOP_FOLDER, UpdateName
from tests.functional import older_server
from tests.functional.box import INSTALL, OLD, Answer, Box, Gate, RawServer, Spawn, archive, http
from tests.functional.conftest import StartBox, StartDaemon
from tests.functional.processes import ROOT, Server, curl, eventually, succeed, until
from tests.helpers.archives import concatenated, file, header, layout, make_archive, stream
from tests.helpers.signed_metadata import Signed, write_key

NEW, NEWER = 1600000000, 1700000000

StartOlder = Callable[..., Server]
BeginUpdate = Callable[..., Awaitable[None]]


@pytest.fixture
def older(spawn: Spawn, updates: Path) -> StartOlder:
    """Start a server like the older one, which boxes still use."""
    return lambda *options: spawn(sys.executable, older_server.__file__, updates, *options)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two releases of this checkout, built by build_update.py."""
    folder = tmp_path_factory.mktemp("built")
    for version in (OLD, NEW):
        subprocess.run(
            [
                *(sys.executable, ROOT / "build_update.py", "--no-wheels"),
                *("--output-dir", folder, "--version", str(version)),
            ],
            check=True,
            timeout=60,
        )
    return folder


@pytest.fixture
def begin_update(start_box: StartBox, box: Box, updates: Path) -> BeginUpdate:
    """Start a box that is offered a release with this script, and click."""

    async def begin(script: bytes = INSTALL, **updater: Any) -> None:
        archive(updates, NEW, script)
        await start_box(**updater)
        await box.click()

    return begin


async def install_by_hand(box: Box, built: Path, version: int, folder: Path) -> None:
    """Install a first release, as the manual says."""
    name = UpdateName(version)
    await succeed("mkdir", str(folder))
    await succeed("tar", "xf", str(built / str(name)), "-C", str(folder))
    await succeed(
        *("env", f"OPQ_PREFIX={box.prefix}", f"OPQ_PYTHON={sys.executable}"),
        str(folder / TOP_FOLDER / "install_update.sh"),
    )
    box.use_installed_agent()


# The whole update


@pytest_twisted.ensureDeferred
async def test_update(
    start: StartDaemon, spawn: Spawn, built: Path, updates: Path, tmp_path: Path
) -> None:
    """A click updates a box to the newest release, whose own agent confirms it."""
    box = Box(spawn, tmp_path / "box")
    await install_by_hand(box, built, OLD, tmp_path / "first")
    shutil.copy(built / str(UpdateName(NEW)), updates)
    server = await start("opq-update-server", "--updates-dir", updates).ready()
    box.configure(server.url)

    await box.start()
    assert await curl(f"{box.agent.url}/version") == (200, f'{{"version": {OLD}}}\n')
    assert await box.click() == (202, f"The update to {NEW} has begun.")
    await box.agent.says("Stage: rebooting")
    assert await box.agent.ends() == -signal.SIGTERM
    assert box.rebooted == 1
    assert box.stages == [
        *("checking", "downloading", "verifying", "unpacking", "installing", "rebooting")
    ]
    assert f"Release {NEW} is now current." in box.log.read_text()

    await box.start()
    await box.agent.says("Stage: confirming")
    assert await curl(f"{box.agent.url}/version") == (200, f'{{"version": {NEW}}}\n')
    status = await box.shows(lambda status: status["stage"] in ("idle", "failed"))
    assert status["stage"] == "idle"
    assert status["last_attempt"]["outcome"] == "updated"
    assert status["last_attempt"]["version"] == NEW
    _, page = await curl(f"{box.agent.url}/")
    assert f'title="Release {NEW}"' in page
    assert "The box has been updated" in page
    assert await box.click() == (200, "The box is up to date.")
    assert not (box.state_dir / "unpacked").exists()


@pytest_twisted.ensureDeferred
async def test_click_by_get(start_box: StartBox, box: Box, updates: Path) -> None:
    """The older interface starts an update by GET."""
    archive(updates, NEW)
    await start_box()
    code, _ = await curl(f"{box.agent.url}/box_update")
    assert code == 202
    await box.reboots_to(NEW)
    assert box.rebooted == 1


@pytest_twisted.ensureDeferred
async def test_second_click(begin_update: BeginUpdate, box: Box, gate: Gate) -> None:
    """During an update another click gets 409 with the stage."""
    await begin_update(b"#!/bin/sh\n" + gate.wait.encode() + INSTALL)
    await box.agent.says("Stage: installing")
    for method in ("GET", "POST"):
        code, body = await curl(f"{box.agent.url}/box_update", "-X", method)
        assert code == 409
        assert json.loads(body)["stage"] == "installing"
    assert (await box.status())["stage"] == "installing"
    gate.open()
    await box.reboots_to(NEW)
    assert box.rebooted == 1


@pytest_twisted.ensureDeferred
async def test_installs_by_itself(start_box: StartBox, box: Box, updates: Path) -> None:
    """A box with automatic installs needs no click, and installs a release once."""
    await start_box(install="automatic", check_every=0.5, spread=0)
    await has_checked(box)
    archive(updates, NEW)
    await box.reboots_to(NEW)
    await has_checked(box)
    assert box.stages == ["confirming", "idle"]


@pytest.mark.parametrize("signs", [False, True], ids=["unsigned", "signed"])
@pytest_twisted.ensureDeferred
async def test_installs_at_once(
    start: StartDaemon, box: Box, updates: Path, tmp_path: Path, signs: bool
) -> None:
    """A box with hourly checks installs a release as soon as the server has it."""
    first = archive(updates, OLD)
    options: list[object] = ["--updates-dir", updates, "--heartbeat", 3600]
    if signs:
        signed = Signed(updates).init()
        signed.publish(1, first)
        box.pin((signed.folder / "1.root.json").read_bytes())
        key = write_key(tmp_path / "timestamp.pem", signed.keys["timestamp"])
        options += ["--timestamp-key", key]
    server = await start("opq-update-server", *options).ready()
    delays = ("_LONG_POLL_DELAY", "_BUSY_DELAY")
    box.set_constants({f"update.scheduler.{name}": 0.1 for name in delays})
    await box.start_with(server.url, install="automatic", check_every=3600, spread=0)
    await waits(server)
    before = await box.status()
    # The first ETag has caused a check.
    assert before["available"] == OLD
    assert before["next_check"] > time.time() + 60

    ready = archive(tmp_path, NEW)
    if signs:
        signed.publish(2, first, ready)
    ready.rename(updates / ready.name)
    await box.reboots_to(NEW)
    await waits(server)


async def waits(server: Server) -> None:
    """Wait until a box has a waiting request at the server."""
    await until(
        lambda: curl(f"{server.url}/metrics"),
        lambda answer: "\nopq_waiting_boxes 1.0\n" in answer[1],
    )


async def has_checked(box: Box) -> None:
    """Wait until the agent has checked for updates by itself."""
    await box.shows(lambda status: status["last_check"] is not None)


# Older boxes, older servers, older archives


@pytest.mark.parametrize("options", [(), ("--no-length",)], ids=["length", "no length"])
@pytest.mark.parametrize("wrapped", [True, False], ids=["folder", "flat"])
@pytest_twisted.ensureDeferred
async def test_older_server(
    older: StartOlder, box: Box, updates: Path, tmp_path: Path, wrapped: bool, options: tuple[str]
) -> None:
    """A box installs an archive of `tar cjf` from the older server, with another VERSION file."""
    installed = tmp_path / "etc" / "opq-version"
    folder = tmp_path / UpdateName(NEW).folder
    (folder / "box-config-daemon").mkdir(parents=True)
    (folder / "box-config-daemon" / "http_server.py").write_text("print('hello')\n")
    (folder / "VERSION").write_text(f"{NEW}\n")
    script = folder / "install_update.sh"
    script.write_text(f"#!/bin/bash\nmkdir -p {installed.parent}\ncp VERSION {installed}\n")
    script.chmod(0o755)
    what = (str(tmp_path), folder.name) if wrapped else (str(folder), ".")
    await succeed("tar", "cjf", str(updates / str(UpdateName(NEW))), "-C", *what)

    server = await older(*options).ready()
    await box.start_with(server.url, version_file=str(installed))
    assert (await box.status())["installed"] is None
    await box.click()
    await box.reboots_to(NEW)


@pytest_twisted.ensureDeferred
async def test_older_box(start: StartDaemon, built: Path, tmp_path: Path) -> None:
    """The steps of the older box's shell script work with the new server and a new archive."""
    server = await start("opq-update-server", "--updates-dir", built).ready()
    steps = (
        f"set -e; wget -q {server.url}/latest -O update.tar.bz2; tar xf update.tar.bz2; "
        "cd opq-box-update-*; cat VERSION; ./install_update.sh >&2"
    )
    prefix = tmp_path / "prefix"
    environment = (f"OPQ_PREFIX={prefix}", f"OPQ_PYTHON={sys.executable}")
    assert await succeed("env", *environment, "sh", "-c", steps, folder=tmp_path) == f"{NEW}\n"
    assert (prefix / "current" / "VERSION").read_text() == f"{NEW}\n"


# Archives that must not be installed


def assert_untouched(box: Box, before: dict[str, bytes]) -> None:
    """Check that the installed files are unchanged, and that no other file is left."""
    assert box.everything_installed() == before
    assert not (box.state_dir / "unpacked").exists()
    assert not ESCAPED.exists()
    assert box.rebooted == 0


#: The target of an archive with an absolute path.
ESCAPED = Path("/tmp/opq-escaped")

_TOP = f"{TOP_FOLDER}/"
_GOOD = layout(NEW, _TOP, INSTALL)


def _truncated() -> bytes:
    whole = concatenated([stream(*_GOOD, file(f"{_TOP}noise", os.urandom(100_000)))])
    return whole[: len(whole) // 2]


def _bomb() -> bytes:
    mebibytes = 3 * 1024
    parts = [stream(*_GOOD, end=b""), header(f"{_TOP}zeros", b"0", mebibytes << 20)]
    return concatenated(parts) + mebibytes * concatenated([bytes(1 << 20)])


#: An archive of each kind of reason; tests/helpers/hostile_archives.py has all of them.
BAD_ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "link": (
        lambda: concatenated([stream(*_GOOD, header(f"{_TOP}x", b"2", link=b"/etc/passwd"))]),
        "x",
    ),
    "absolute": (
        lambda: concatenated([stream(*_GOOD, file(os.fspath(ESCAPED), b"x"))]),
        "absolute path",
    ),
    "bomb": (_bomb, "more than 2048 MiB"),
    "other VERSION": (
        lambda: concatenated([stream(*layout(NEWER, _TOP))]),
        f"its VERSION holds {NEWER} and not {NEW}",
    ),
    "truncated": (_truncated, "not a whole bzip2 archive"),
}


@pytest.mark.parametrize("kind", BAD_ARCHIVES)
@pytest_twisted.ensureDeferred
async def test_bad_archive(older: StartOlder, box: Box, updates: Path, kind: str) -> None:
    """A bad archive is refused with the reason, leaves no file, and blocks no later release."""
    make, reason = BAD_ARCHIVES[kind]
    (updates / str(UpdateName(NEW))).write_bytes(make())
    server = await older().ready()
    box.configure(server.url)
    before = box.everything_installed()
    await box.start()
    await box.click()
    assert reason in await box.fails()
    assert_untouched(box, before)

    archive(updates, NEWER)
    await box.click()
    await box.reboots_to(NEWER)
    assert box.archives() == {str(UpdateName(NEWER))}


# Scripts and reboot commands that do not work


@pytest_twisted.ensureDeferred
async def test_failing_script(begin_update: BeginUpdate, box: Box) -> None:
    """A failed script is reported and causes no reboot; the owner may try the release again."""
    await begin_update(b"#!/bin/sh\necho that is not it\nexit 3\n")
    sentence = await box.fails()
    assert f"ended with exit status 3. See {box.log}" in sentence
    assert "that is not it" in box.log.read_text()
    assert box.rebooted == 0

    await box.click()
    assert "ended with exit status 3" in await box.fails(times=2)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (b"#!/nonexistent/shell\n", "This box cannot run /nonexistent/shell, which"),
        (b"#!/bin/sh\necho 'install_update.sh: make room.'\nexit 75\n", "make room."),
        (
            b'#!/bin/sh\nrm -rf "$OPQ_PREFIX" && touch "$OPQ_PREFIX"; exit 1\n',
            "The box cannot write in ",
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_box_at_fault(
    begin_update: BeginUpdate, box: Box, script: bytes, reason: str
) -> None:
    """A release is not blocked for a fault of the box."""
    await begin_update(script)
    assert reason in await box.fails()
    _, history = await curl(f"{box.agent.url}/history")
    assert json.loads(history)["refused"] == []
    assert box.rebooted == 0


@pytest_twisted.ensureDeferred
async def test_refused_release(start_box: StartBox, box: Box, updates: Path) -> None:
    """A release whose script failed is not tried again automatically; the status says why."""
    archive(updates, NEW, b"#!/bin/sh\nexit 3\n")
    await start_box(install="automatic", check_every=0.1, spread=0)
    await box.agent.says("The update failed: .*exit status 3")
    status = await box.shows(lambda status: "is blocked" in status["message"])
    assert f"Release {NEW} is blocked: install_update.sh ended with" in status["message"]
    assert box.stages.count("installing") == 1

    archive(updates, NEWER)
    await box.reboots_to(NEWER)


@pytest_twisted.ensureDeferred
async def test_script_without_effect(begin_update: BeginUpdate, box: Box) -> None:
    """A release that does not run after the reboot has failed, even if its script succeeded."""
    await begin_update(b"#!/bin/sh\n")
    assert await box.agent.ends() == -signal.SIGTERM
    await box.start()
    assert f"After the reboot the box runs {OLD}, not {NEW}." in await box.fails()


@pytest_twisted.ensureDeferred
async def test_hanging_script(begin_update: BeginUpdate, box: Box, tmp_path: Path) -> None:
    """A script that hangs is killed with all its processes, even those that ignore SIGTERM."""
    pids = tmp_path / "pids"
    script = (
        "#!/bin/sh\ntrap '' TERM\nsleep 300 &\n"
        f"echo $$ $! >{pids}.new; mv {pids}.new {pids}\nwait\n"
    )
    box.set_constants({"install.processes.TERMINATION_GRACE": 0.5})
    await begin_update(script.encode(), install_timeout=1)
    assert "took too long and was ended" in await box.fails()
    await eventually(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


@pytest_twisted.ensureDeferred
async def test_hanging_orphan(begin_update: BeginUpdate, box: Box, tmp_path: Path) -> None:
    """A script that hangs is killed even after its agent has been killed."""
    pids = tmp_path / "pids"
    script = f"#!/bin/sh\nsleep 300 &\necho $$ $! >{pids}.new; mv {pids}.new {pids}\nwait\n"
    box.set_constants({"install.processes.TERMINATION_GRACE": 0.5})
    await begin_update(script.encode(), install_timeout=1)
    await eventually(pids.exists)
    await box.agent.stop(signal.SIGKILL)
    await box.start()
    assert "took too long" in await box.fails()
    assert not any(alive(int(pid)) for pid in pids.read_text().split())


@pytest.mark.parametrize("status", [0, 3])
@pytest_twisted.ensureDeferred
async def test_script_kills_agent(
    begin_update: BeginUpdate, box: Box, gate: Gate, status: int
) -> None:
    """A script that kills the agent continues, and the next agent gets its result."""
    kill = f'#!/bin/sh\nkill -KILL "$(cat {box.pid_file})"\n{gate.wait}'
    await begin_update(kill.encode() + INSTALL + b"exit %d\n" % status)
    assert await box.agent.ends() == -signal.SIGKILL
    await box.start()
    assert (await box.status())["stage"] == "installing"
    gate.open()
    if status == 0:
        await box.reboots_to(NEW)
        assert box.rebooted == 1
    else:
        assert "ended with exit status 3" in await box.fails()
    assert box.log.read_text().count("installing") == 1


@pytest_twisted.ensureDeferred
async def test_reboot_command(begin_update: BeginUpdate, box: Box) -> None:
    """If the reboot command fails, a sentence asks the owner to reboot the box."""
    box.set_constants({"update.workflow._REBOOT_DELAYS": [0.1, 0.1]})
    await begin_update(reboot_command=["/bin/false", "now"])
    reason = await box.fails()
    assert "The reboot command /bin/false now" in reason
    assert "Reboot the box by hand." in reason


# Servers that do not work

#: The path of the new release.
ARCHIVE = f"/update/{UpdateName(NEW)}"


def _offer(raw: RawServer, answer: Answer) -> None:
    raw.answers["/version"] = Answer(http(str(NEW).encode()))
    raw.answers[ARCHIVE] = answer


VERSION_ANSWERS = {
    "garbage": (Answer(http(b"<html>hello</html>")), "did not answer as an update server does"),
    "closed": (Answer(b""), "Cannot reach the update server"),
}


@pytest.mark.parametrize("kind", VERSION_ANSWERS)
@pytest_twisted.ensureDeferred
async def test_bad_version_answer(box: Box, raw: RawServer, kind: str) -> None:
    """After a false response nothing is installed, and the sentence says what was wrong."""
    answer, reason = VERSION_ANSWERS[kind]
    raw.answers["/version"] = answer
    await box.start_with(raw.url)
    code, text = await box.click()
    assert code == 202
    assert reason in text
    assert reason in await box.fails()
    assert raw.asked == ["/version"]
    _, page = await curl(f"{box.agent.url}/")
    assert reason in page


@pytest_twisted.ensureDeferred
async def test_server_down(box: Box) -> None:
    """The sentence about an unreachable server names it, and the installed release stays."""
    await box.start_with("http://127.0.0.1:1")
    await box.click()
    assert "Cannot reach the update server http://127.0.0.1:1" in await box.fails()
    assert (await box.status())["installed"] == OLD


@pytest_twisted.ensureDeferred
async def test_proxy(box: Box, raw: RawServer) -> None:
    """The agent uses the proxy of its environment, unless the setting says otherwise."""
    box.environment["HTTP_PROXY"] = raw.url
    await box.start_with("http://updates.invalid:8151")
    assert await box.click() == (200, "The update server has no update.")
    assert raw.asked == ["http://updates.invalid:8151/version"]
    await box.agent.stop()
    await box.start_with("http://updates.invalid:8151", proxy="none")
    await box.click()
    assert "its name is not known here" in await box.fails()
    assert len(raw.asked) == 1


def _archive_bytes(tmp_path: Path) -> bytes:
    """Make a good archive that is larger than one read."""
    noise = {"box-configuration-daemon/noise": os.urandom(300_000)}
    path = make_archive(tmp_path / str(UpdateName(NEW)), NEW, noise, script=INSTALL)
    return path.read_bytes()


def _digest(content: bytes) -> str:
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    return f"Repr-Digest: sha-256=:{digest}:"


def _altered(whole: bytes) -> bytes:
    middle = len(whole) // 2
    return whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]


def _cut(whole: bytes) -> bytes:
    return http(whole[:-1000], length=len(whole))


def _says_too_much(whole: bytes) -> bytes:
    return http(whole, length=len(whole) + 7)


def _oops(whole: bytes) -> bytes:
    return http(b"", status="500 Oops")


DELIVERIES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "404": (lambda whole: http(b"", status="404 Not Found"), "answers 404"),
    # Usually another connection fetches the rest; here it cannot.
    "cut": (_cut, "answers 410"),
    "says too much": (_says_too_much, "answers 410"),
    "says too little": (lambda whole: http(whole, length=len(whole) // 2), "not a whole bzip2"),
    "says no archive is so large": (lambda whole: http(whole, length=10**15), "at most"),
    "cut, HTTP/1.0": (
        lambda whole: b"HTTP/1.0 200 OK\r\n\r\n" + whole[: len(whole) // 2],
        "not a whole bzip2",
    ),
    "altered": (lambda whole: http(_altered(whole), _digest(whole)), "another SHA-256"),
    "altered, without a digest": (lambda whole: http(_altered(whole)), "damaged"),
}

_GONE = Answer(http(b"", status="410 Gone"))


@pytest.mark.parametrize("kind", DELIVERIES)
@pytest_twisted.ensureDeferred
async def test_bad_delivery(box: Box, raw: RawServer, tmp_path: Path, kind: str) -> None:
    """An archive that arrives incomplete or altered is not installed; the next click works."""
    deliver, reason = DELIVERIES[kind]
    whole = _archive_bytes(tmp_path)
    _offer(raw, Answer(deliver(whole), then=_GONE))
    box.configure(raw.url)
    before = box.everything_installed()
    await box.start()
    await box.click()
    assert reason in await box.fails()
    assert_untouched(box, before)

    _offer(raw, Answer(http(whole, _digest(whole))))
    await box.click()
    await box.reboots_to(NEW)


@pytest.mark.parametrize("deliver", [_cut, _says_too_much, _oops])
@pytest_twisted.ensureDeferred
async def test_mended_delivery(
    box: Box, raw: RawServer, tmp_path: Path, deliver: Callable[[bytes], bytes]
) -> None:
    """After a failed connection another one follows automatically, and gets the release."""
    whole = _archive_bytes(tmp_path)
    _offer(raw, Answer(deliver(whole), then=Answer(http(whole, _digest(whole)))))
    await box.start_with(raw.url)
    await box.click()
    await box.reboots_to(NEW)
    # The last request is the check that confirms the new release.
    assert raw.asked[:4] == ["/version", ARCHIVE, ARCHIVE, "/version"]


@pytest_twisted.ensureDeferred
async def test_rest_of_delivery(box: Box, raw: RawServer, tmp_path: Path) -> None:
    """After a broken connection only the rest of the same archive is requested."""
    whole = _archive_bytes(tmp_path)
    come, etag = len(whole) // 2, 'ETag: "of-this-archive"'
    rest = http(
        whole[come:],
        f"Content-Range: bytes {come}-{len(whole) - 1}/{len(whole)}",
        etag,
        status="206 Partial Content",
    )
    first = http(whole[:come], _digest(whole), etag, length=len(whole))
    _offer(raw, Answer(first, then=Answer(rest)))
    await box.start_with(raw.url)
    await box.click()
    await box.reboots_to(NEW)
    # The last request is the check that confirms the new release.
    assert raw.asked[:4] == ["/version", ARCHIVE, ARCHIVE, "/version"]
    assert f"Range: bytes={come}-\r\n".encode() in raw.requests[2]
    assert b'If-Range: "of-this-archive"\r\n' in raw.requests[2]


@pytest_twisted.ensureDeferred
async def test_unsigned_refused(box: Box, raw: RawServer) -> None:
    """If unsigned releases are not allowed, none is downloaded."""
    _offer(raw, Answer(b""))
    await box.start_with(raw.url, allow_unsigned=False)
    await box.click()
    reason = await box.fails()
    assert "not signed" in reason
    assert '"allow_unsigned": true' in reason
    assert raw.asked == ["/version"]
    assert box.archives() == set()


# Errors at the start of the agent


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "Cannot read the configuration {config}: No such file or directory."),
        ('{"updates_ep": "ftp://updates.example.org"}', "updates_ep must be like"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_bad_configuration(box: Box, content: str | None, sentence: str) -> None:
    """With an invalid configuration the agent ends with a sentence that names the setting."""
    if content is not None:
        box.config.write_text(content)
    await box.launch().refuses_to_start(sentence.format(config=box.config))


@pytest_twisted.ensureDeferred
async def test_busy_port(box: Box, raw: RawServer) -> None:
    """If its port is in use the agent logs that, and checks for updates without its page."""
    box.configure(raw.url, check_every=1, spread=0)
    agent = box.launch("--port", raw.url.rpartition(":")[2])
    await agent.says(f"There is no page.*: {os.strerror(errno.EADDRINUSE)}")
    await eventually(lambda: raw.asked)
    await agent.stop()
    assert "Traceback" not in agent.output


@pytest_twisted.ensureDeferred
async def test_state_directory(box: Box, raw: RawServer) -> None:
    """A state directory that cannot be made ends the agent with a sentence."""
    box.configure(raw.url)
    agent = box.launch("--state-dir", box.config / "below-a-file")
    await agent.refuses_to_start(f"Cannot write in the state directory {box.config}/below-a-file")


@pytest_twisted.ensureDeferred
async def test_two_agents(box: Box, raw: RawServer) -> None:
    """A second agent does not touch the state directory of the first."""
    await box.start_with(raw.url)
    await box.launch().refuses_to_start(f"Another agent uses {box.state_dir}")


# Agents that are killed


@pytest.mark.parametrize(
    "stage", ["checking", "downloading", "verifying", "unpacking", "installing", "rebooting"]
)
@pytest_twisted.ensureDeferred
async def test_killed_at_any_stage(
    start_box: StartBox, start: StartDaemon, box: Box, updates: Path, stage: str
) -> None:
    """After a kill in any stage the next agent installs the new release without help."""
    archive(updates, NEW)
    await start_box(install="automatic", check_every=0.1, spread=0)
    await box.agent.says(f"Stage: {stage}")
    await box.agent.stop(signal.SIGKILL)
    # Not start(): the next agent may reboot the box before a request reaches it.
    next_agent = box.launch()
    if (await next_agent.says("Stage: (rebooting|confirming)"))[1] == "rebooting":
        await box.reboots_to(NEW)
    else:
        await next_agent.says("Stage: idle")
    status = await box.status()
    assert (status["installed"], status["last_attempt"]["outcome"]) == (NEW, "updated")
    assert box.archives() == {str(UpdateName(NEW))}


@pytest_twisted.ensureDeferred
async def test_killed_while_downloading(box: Box, raw: RawServer, tmp_path: Path) -> None:
    """Half an archive is never installed; the next agent downloads the rest and installs it."""
    whole = _archive_bytes(tmp_path)
    half = http(whole[: len(whole) // 2], _digest(whole), length=len(whole))
    _offer(raw, Answer(half, closes=False))
    await box.start_with(raw.url)
    await box.click()
    partial, record = f"{UpdateName(NEW)}.part", f"{UpdateName(NEW)}.part.json"
    await eventually(lambda: (box.state_dir / "archives" / record).exists())
    await box.agent.stop(signal.SIGKILL)
    assert box.archives() == {partial, record}

    _offer(raw, Answer(http(whole, _digest(whole))))
    await box.start()
    await box.reboots_to(NEW)
    assert box.archives() == {str(UpdateName(NEW))}


@pytest_twisted.ensureDeferred
async def test_killed_while_unpacking(start_box: StartBox, box: Box, updates: Path) -> None:
    """An unpacker whose agent was killed does not disturb the unpacker of the next agent."""
    files = {f"box-configuration-daemon/{number}": b"x" for number in range(6_000)}
    make_archive(updates / str(UpdateName(NEW)), NEW, files, script=INSTALL)
    await start_box()
    await box.click()
    await eventually(lambda: (box.state_dir / "unpacked").exists())
    await box.agent.stop(signal.SIGKILL)
    await box.start()
    await box.reboots_to(NEW)


@pytest_twisted.ensureDeferred
async def test_killed_while_installing(begin_update: BeginUpdate, box: Box, gate: Gate) -> None:
    """The script continues without its agent, and is not started a second time."""
    await begin_update(b"#!/bin/sh\necho begun\n" + gate.wait.encode() + INSTALL)
    await eventually(lambda: box.log.exists() and "begun" in box.log.read_text())
    await box.agent.stop(signal.SIGKILL)
    await box.start()
    gate.open()
    await box.reboots_to(NEW)
    assert box.log.read_text().count("begun") == 1


@pytest_twisted.ensureDeferred
async def test_power_cut_while_installing(
    begin_update: BeginUpdate, box: Box, gate: Gate, tmp_path: Path
) -> None:
    """A script that a power cut has ended is started again."""
    pid = tmp_path / "pid"
    script = f"#!/bin/sh\necho begun\necho $$ >{pid}.new\nmv {pid}.new {pid}\n{gate.wait}"
    await begin_update(script.encode() + INSTALL)
    await eventually(pid.exists)
    await box.agent.stop(signal.SIGKILL)
    script_pid = int(pid.read_text())
    os.killpg(os.getpgid(script_pid), signal.SIGKILL)
    await eventually(lambda: not alive(script_pid))
    gate.open()
    await box.start()
    await box.reboots_to(NEW)
    assert box.rebooted == 1


# Requests that the owner did not intend


@pytest_twisted.ensureDeferred
async def test_requests_from_elsewhere(box: Box, raw: RawServer) -> None:
    """Another page in the owner's browser can neither start an update nor read the box's status."""
    await box.start_with(raw.url)
    own = box.agent.url
    for path in ("/box_update", "/check"):
        for header_line in (
            "Origin: http://evil.example",
            "Origin: null",
            "Sec-Fetch-Site: cross-site",
            "Sec-Fetch-Site: same-site",
            "Sec-Purpose: prefetch",
            "Host: evil.example",
        ):
            code, _ = await curl(f"{own}{path}", "-X", "POST", "-H", header_line)
            assert code == 403, header_line
    code, _ = await curl(f"{own}/box_update", "-H", "Sec-Fetch-Site: cross-site")
    assert code == 403
    code, _ = await curl(f"{own}/status", "-H", "Host: evil.example")
    assert code == 403
    assert raw.asked == []

    code, text = await box.click("-H", f"Origin: {own}", "-H", "Sec-Fetch-Site: same-origin")
    assert (code, text) == (200, "The update server has no update.")


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
