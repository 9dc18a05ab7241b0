"""An attacker between a box and its maker installs nothing, and stops no later update."""

import html
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import pytest_twisted
from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from opq_twisted.archive.name import UpdateName
from opq_twisted.trust.offer import describe_before
from opq_twisted.trust.pace import ALL, BAKING, FIELD, HELD, Pace
from tests.functional.box import INSTALL, NOT_FOUND, Answer, Box, Middleman, Spawn, archive, http
from tests.functional.conftest import StartDaemon
from tests.functional.downloads import index_of
from tests.functional.processes import Server, curl, eventually, run
from tests.functional.update_server import started
from tests.helpers.archives import (
    layout,
    make_archive,
    make_pieces_archive,
    random_parts,
    stream,
    write_archive,
)
from tests.helpers.signed_metadata import ROLES, Signed, channel, write_key

OLD, NEW, NEWER = 1500000000, 1600000000, 1700000000

#: Where the boxes fetch the new release.
ARCHIVE = f"/update/{UpdateName(NEW)}"

#: Where they fetch its index.
INDEX = f"{ARCHIVE}.pieces"

#: The highest version number that many TUF implementations allow.
UTMOST = 2**31 - 1

NOT_SIGNED = "is not what the release key signed, or is older than before"

#: The reason for metadata that was valid earlier, such as an older copy of it.
OLDER = "copy of the signed metadata is older than what this box has seen"
EXPIRED = "signed metadata has expired"


class Field:
    """A box that trusts its maker's root, the maker's signed releases, and a man in the middle."""

    def __init__(self, start: StartDaemon, box: Box, signed: Signed, middleman: Middleman) -> None:
        self._failures = 0
        #: The version of the last targets and snapshot of the maker.
        self.metadata_set = 0
        self.start = start
        #: The maker's own server, if it has been started.
        self.server: Server | None = None
        self.box = box
        #: The metadata of the maker, which the honest server serves.
        self.signed = signed
        self.middleman = middleman
        self.before = box.everything_installed()

    def release(self, version: int, **custom: Any) -> Path:
        """Sign a release, as its maker does."""
        self.metadata_set += 1
        path = archive(self.signed.updates, version)
        self.signed.publish(self.metadata_set, path, custom=custom)
        return path

    def hijack(self) -> Signed:
        """Let an attacker change a copy of all public files, which the box gets from now on."""
        copy = self.middleman.updates.with_name("hijacked")
        copytree(self.signed.updates, copy, dirs_exist_ok=True)
        self.middleman.updates = copy
        hijacked = Signed(copy)
        hijacked.keys = dict(self.signed.keys)
        return hijacked

    async def starts(self, endpoint: str | None = None, **updater: Any) -> None:
        """Start the box; unsigned releases are allowed, which must not matter."""
        await self.box.start_with(endpoint or self.middleman.url, **updater)

    async def honest_server(self, *options: object) -> Server:
        """Start the maker's own server, and let the box through to it."""
        key = write_key(
            self.signed.updates.with_name("timestamp.pem"), self.signed.keys["timestamp"]
        )
        options = ("--timestamp-key", key, *options)
        self.server = await started(self.start, self.signed.updates, *options)
        await self.announced()
        self.middleman.let_through(self.server)
        return self.server

    async def announced(self) -> None:
        """Wait until the honest server announces the newest snapshot."""
        assert self.server is not None
        await self.server.says(rf"signed timestamp \d+ for {self.metadata_set}.snapshot.json")

    async def sees(self) -> None:
        """Let the box check for updates, without an installation."""
        code, answer = await curl(f"{self.box.agent.url}/check", "-X", "POST")
        assert code == 200, answer

    async def sees_newer(self) -> None:
        """Let the box see the second snapshot, with the third timestamp."""
        self.release(NEW)
        self.signed.timestamp(3, 2)
        await self.starts()
        await self.sees()

    async def restarts(self) -> None:
        """Start the agent again, with the true time."""
        await self.box.agent.stop()
        self.box.environment = {}
        await self.box.start()

    async def refuses(self, reason: str, detail: str = "") -> None:
        """Click, and see that the box installs nothing, and shows the reason."""
        self._failures += 1
        await self.box.click()
        sentence = await self.box.fails(self._failures)
        assert reason in sentence
        assert detail in sentence
        await self.shows(sentence)
        self.has_nothing_new()

    async def refuses_again(self, reason: str) -> None:
        """Click, and see that the box installs nothing, while it checks by itself as well."""
        failed = f"The update failed: [^\n]*{reason}"
        times = len(re.findall(failed, self.box.agent.output))
        await self.box.click()
        await self.box.agent.says(f"(?s)({failed}.*){{{times + 1}}}")
        self.has_nothing_new()

    async def declines(self, answer: str) -> None:
        """Start the box with the honest server, and click: there is nothing to install."""
        self.before = self.box.everything_installed()
        await self.honest_server()
        await self.starts()
        assert await self.box.click() == (200, answer)
        self.has_nothing_new()

    async def shows(self, message: str) -> None:
        """See that the box's page has this text."""
        _, page = await curl(f"{self.box.agent.url}/")
        assert message in html.unescape(page)

    def has_nothing_new(self) -> None:
        """See that the installed files have not changed."""
        assert self.box.everything_installed() == self.before
        assert not (self.box.state_dir / "unpacked").exists()
        assert "Stage: installing" not in self.box.agent.output
        assert self.box.rebooted == 0

    async def stops_at_once(self) -> None:
        """Stop the agent, long before it would give up on any server."""
        self.has_nothing_new()
        begun = reactor.seconds()
        assert await self.box.agent.stop() == -signal.SIGTERM
        assert reactor.seconds() - begun < 5

    async def recovers(self) -> None:
        """See that a click installs the next release of the honest server."""
        self.release(NEWER)
        if self.server is None:
            await self.honest_server()
        await self.announced()
        await self.installs(NEWER)

    async def installs(self, version: int) -> None:
        """Click, and see that the box installs a release."""
        code, text = await self.box.click()
        assert code == 202, text
        await self.box.reboots_to(version)
        assert not (await self.box.status())["unsigned"]


@pytest.fixture
def middleman(updates: Path) -> Iterator[Middleman]:
    """The attacker between the box and the honest server."""
    middleman = Middleman(updates)
    yield middleman
    pytest_twisted.blockon(middleman.close())


@pytest.fixture
def field(
    start: StartDaemon, spawn: Spawn, updates: Path, middleman: Middleman, tmp_path: Path
) -> Field:
    """A box that runs an old release, and a new, signed release."""
    signed = Signed(updates).init()
    box = Box(spawn, tmp_path / "box")
    box.install(OLD)
    box.pin((signed.folder / "1.root.json").read_bytes())
    field = Field(start, box, signed, middleman)
    field.release(NEW)
    # It is so old that the honest server signs another one when it starts.
    signed.timestamp(1, 1, days=3)
    return field


def lie(content: bytes = b"", **more: Any) -> Answer:
    """Make a response without a length."""
    return Answer(b"HTTP/1.1 200 OK\r\n\r\n" + content, closes=False, **more)


# False responses


@pytest_twisted.ensureDeferred
async def test_altered_archive(field: Field) -> None:
    """An archive that differs from the signed one is not even unpacked."""
    whole = (field.signed.updates / str(UpdateName(NEW))).read_bytes()
    middle = len(whole) // 2
    altered = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    field.middleman.answers[ARCHIVE] = Answer(http(altered))
    await field.starts()
    await field.refuses("another SHA-256")
    assert field.box.archives() == set()
    await field.recovers()


@pytest.mark.parametrize("kind", ["longer", "shorter", "endless", "older release"])
@pytest_twisted.ensureDeferred
async def test_other_length(field: Field, kind: str) -> None:
    """An archive of another length is discarded, and the download succeeds later."""
    whole = (field.signed.updates / str(UpdateName(NEW))).read_bytes()
    older = make_archive(field.signed.updates / str(UpdateName(OLD)), OLD, {"x": os.urandom(9)})
    answer, reason = {
        "longer": (Answer(http(whole + b"x")), f"sent {len(whole) + 1} bytes instead"),
        "shorter": (Answer(http(whole[:-1])), f"sent {len(whole) - 1} bytes instead"),
        "endless": (lie(whole, again=bytes(65536)), f"sent more than {len(whole)} bytes instead"),
        "older release": (Answer(http(older.read_bytes())), f"bytes instead of {len(whole)} bytes"),
    }[kind]
    field.middleman.answers[ARCHIVE] = answer
    await field.starts()
    await field.box.click()
    await field.box.shows(lambda status: reason in status["message"])
    field.has_nothing_new()
    field.middleman.answers = {}
    await field.box.reboots_to(NEW)


@pytest_twisted.ensureDeferred
async def test_endless_metadata(field: Field) -> None:
    """Endless metadata is cut off at the limit of its role."""
    await field.starts()
    for name, limit in {
        "2.root.json": 512_000,
        "timestamp.json": 16_384,
        "1.snapshot.json": (field.signed.folder / "1.snapshot.json").stat().st_size,
        "1.targets.json": 5_000_000,
    }.items():
        field.middleman.answers = {f"/tuf/{name}": lie(b"{", again=b"[" * 1_000_000)}
        await field.refuses(
            f"/tuf/{name} did not answer as an update server does", f"more than {limit} bytes"
        )
    await field.recovers()


SLOW = {
    "asked, silent": ("/tuf/timestamp.json", Answer(b"", closes=False)),
    "asked, drips": ("/tuf/timestamp.json", lie(b"{", again=b" ")),
    "download, stops": (ARCHIVE, lie(b"BZh9")),
    "download, drips": (ARCHIVE, lie(b"BZh9", again=b"1")),
}


@pytest.mark.parametrize("kind", SLOW)
@pytest_twisted.ensureDeferred
async def test_slow(field: Field, kind: str) -> None:
    """A slow server prevents neither a stop of the agent nor the update after a restart."""
    path, answer = SLOW[kind]
    field.middleman.answers[path] = answer
    await field.starts()
    click = Deferred.fromCoroutine(run("curl", "-XPOST", f"{field.box.agent.url}/box_update"))
    await eventually(lambda: path in field.middleman.asked)
    await field.stops_at_once()
    await click
    field.release(NEWER)
    await field.honest_server()
    # The agent continues its update, without a click.
    field.box.launch()
    await field.box.reboots_to(NEWER)


@pytest_twisted.ensureDeferred
async def test_slow_check(field: Field) -> None:
    """An agent stops at once during its own check of a silent server."""
    field.middleman.answers["/tuf/timestamp.json"] = Answer(b"", closes=False)
    await field.starts(check_every=0.1)
    await eventually(lambda: "/tuf/timestamp.json" in field.middleman.asked)
    await field.stops_at_once()
    field.middleman.answers = {}
    await field.box.start()
    await field.recovers()


# Indexes of pieces


def has_most_pieces(field: Field) -> None:
    """Sign a release that the box can assemble from its last good one, except for a part."""
    old = field.signed.updates.with_name(str(UpdateName(OLD)))
    make_pieces_archive(old, OLD, random_parts(1, 2, 13), script=INSTALL)
    field.box.keep_as_last_good(old)
    new = field.signed.updates / str(UpdateName(NEW))
    make_pieces_archive(new, NEW, random_parts(1, 2, 3), script=INSTALL)
    field.metadata_set += 1
    field.signed.publish(field.metadata_set, new)
    field.signed.timestamp(2, field.metadata_set)


@pytest_twisted.ensureDeferred
async def test_lying_index(field: Field) -> None:
    """An index brings no other bytes into a box, and costs one more download of a release."""
    has_most_pieces(field)
    new = field.signed.updates / str(UpdateName(NEW))
    index = index_of(new)
    # First those that the last good archive has.
    shuffled = tuple(index.pieces[number] for number in (2, 1, 4, 0, 3))
    field.middleman.answers = {
        INDEX: Answer(http(evolve(index, pieces=shuffled).to_json())),
        ARCHIVE: Answer(http(os.urandom(index.size))),
    }
    asked = field.middleman.asked
    await field.starts(install="automatic", check_every=0.1, spread=0)
    await field.box.agent.says("The update failed: .*another SHA-256")
    checks = asked.count("/tuf/timestamp.json")
    await eventually(lambda: asked.count("/tuf/timestamp.json") > checks + 3)
    assert (asked.count(INDEX), asked.count(ARCHIVE)) == (1, 2)
    await field.refuses_again("another SHA-256")
    assert (asked.count(INDEX), asked.count(ARCHIVE)) == (1, 3)
    await field.restarts()
    await field.refuses_again("another SHA-256")
    assert (asked.count(INDEX), asked.count(ARCHIVE)) == (1, 4)
    assert field.box.archives() == {str(UpdateName(OLD))}
    field.middleman.answers = {}
    await field.installs(NEW)
    assert (asked.count(INDEX), asked.count(ARCHIVE)) == (1, 5)


#: Indexes that are long, deep, or both.
HOSTILE = {
    "a GB": (b'{"pieces":[', b'[1,"A"],' * 100_000),
    "deep": (b"[" * 1_000_000, b""),
    "objects": (b'{"pieces":[%s{}]}' % (b"{}," * 300_000), b""),
    "pieces": (b'{"pieces":[%s[1]]}' % (b'[1,""],' * 140_000), b""),
}


@pytest_twisted.ensureDeferred
async def test_hostile_indexes(field: Field) -> None:
    """No index takes much of a box's memory."""
    has_most_pieces(field)
    whole = field.middleman.updates / str(UpdateName(NEW))
    field.middleman.answers = {ARCHIVE: NOT_FOUND}
    await field.starts()
    await field.refuses("answers 404")
    before = peak_memory(field.box)
    for start, again in HOSTILE.values():
        field.middleman.answers[INDEX] = lie(start, again=again) if again else Answer(http(start))
        await field.refuses("answers 404")
    assert field.middleman.asked.count(INDEX) == 1 + len(HOSTILE)
    assert peak_memory(field.box) - before < 50
    field.middleman.answers = {INDEX: Answer(http(index_of(whole).to_json()))}
    await field.installs(NEW)


def peak_memory(box: Box) -> float:
    """Read the most memory that the agent has used, in MB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{box.agent.pid}/status").read_text())
    assert found
    return int(found[1]) / 1000


# Older metadata


@pytest_twisted.ensureDeferred
async def test_rollback_of_timestamp(field: Field) -> None:
    """A box that has seen a newer timestamp refuses an older one."""
    await field.sees_newer()
    for version, snapshot in ((2, 2), (2, 1), (1, 1)):
        field.hijack().timestamp(version, snapshot)
        await field.refuses(OLDER, f"timestamp version {version} must be >= 3")
    await field.recovers()


@pytest_twisted.ensureDeferred
async def test_rollback_of_snapshot(field: Field) -> None:
    """The timestamp's key alone cannot bring an old snapshot back."""
    await field.sees_newer()
    field.hijack().timestamp(4, 1)
    await field.refuses(OLDER, "snapshot version must be >= 2, got version 1")
    await field.recovers()


@pytest_twisted.ensureDeferred
async def test_rollback_of_targets(field: Field) -> None:
    """The keys of timestamp and snapshot cannot bring old targets back."""
    await field.sees_newer()
    hijacked = field.hijack()
    hijacked.snapshot(3, 1)
    hijacked.timestamp(4, 3)
    await field.refuses(NOT_SIGNED, "Expected targets.json version 1, got 2")
    # The attacker's timestamp was valid, so the maker's next snapshot needs a higher version.
    field.release(NEW)
    await field.recovers()


@pytest_twisted.ensureDeferred
async def test_rollback_of_root(field: Field) -> None:
    """An old root does not come back, neither under a new number nor by keeping the new one."""
    stolen = field.signed.keys["timestamp"]
    field.signed.rotate("timestamp", 2)
    field.signed.timestamp(2, 1)
    await field.starts()
    await field.sees()
    for number in (1, 2):
        old = (field.signed.folder / f"{number}.root.json").read_bytes()
        field.middleman.answers = {"/tuf/3.root.json": Answer(http(old))}
        await field.refuses(NOT_SIGNED, f"root version 3 instead got version {number}")
    hijacked = field.hijack()
    (hijacked.folder / "2.root.json").unlink()
    hijacked.timestamp(3, 1, signer=stolen)
    field.middleman.answers = {}
    await field.refuses(NOT_SIGNED, "timestamp was signed by 0/1 keys")
    await field.recovers()


@pytest_twisted.ensureDeferred
async def test_mix_and_match(field: Field) -> None:
    """Metadata files of two releases cannot be combined."""
    field.release(NEWER)
    field.signed.timestamp(2, 2)
    await field.starts()
    for wanted, sent, detail in (
        ("2.snapshot.json", "1.snapshot.json", "does not match expected hash"),
        ("timestamp.json", "2.snapshot.json", "Expected 'timestamp', got 'snapshot'"),
        ("2.targets.json", "1.targets.json", "Expected targets v2, got v1"),
        ("2.targets.json", "2.snapshot.json", "Expected 'targets', got 'snapshot'"),
    ):
        content = (field.signed.folder / sent).read_bytes()
        field.middleman.answers = {f"/tuf/{wanted}": Answer(http(content))}
        await field.refuses(NOT_SIGNED, detail)
    await field.recovers()


# Time


@pytest_twisted.ensureDeferred
async def test_freeze(field: Field) -> None:
    """An attacker who hides new releases is detected when the metadata of any role expires."""
    await field.starts()
    signed = field.signed
    signed.timestamp(2, 1, days=-1)
    await field.refuses(EXPIRED, "timestamp.json is expired")
    signed.snapshot(2, 1, days=-1)
    signed.timestamp(3, 2)
    await field.refuses(EXPIRED, "snapshot.json is expired")
    signed.targets(2, days=-1)
    signed.snapshot(3, 2)
    signed.timestamp(4, 3)
    await field.refuses(EXPIRED, "targets is expired")
    signed.root(2, days=-1)
    await field.refuses(EXPIRED, "root.json is expired")
    # A root that follows an expired one is valid.
    signed.root(3)
    for _ in range(3):
        field.release(NEW)
    await field.recovers()


async def clock(date: str) -> dict[str, str]:
    """Make the environment of a program whose clock starts at a date."""
    # The program faketime starts a child, which would not get our signals.
    status, library, error = await run("faketime", date, "printenv", "LD_PRELOAD")
    assert status == 0, error
    # With a true monotonic clock it makes Python's threads wait a fifth of a second each time.
    return {"LD_PRELOAD": library.strip(), "FAKETIME": f"@{date}"}


@pytest_twisted.ensureDeferred
async def test_clock_in_the_past(field: Field) -> None:
    """A box whose clock shows 1970, when nothing has expired, sends no request and waits."""
    field.signed.timestamp(2, 1, days=-1)
    field.box.environment = await clock("1970-01-02 00:00:00")
    await field.starts()
    await field.refuses("Waiting for the clock: it shows 1970-01-0")
    assert field.middleman.asked == []
    await field.restarts()
    await field.recovers()


@pytest_twisted.ensureDeferred
async def test_clock_in_the_future(field: Field) -> None:
    """A box whose clock shows 2035 sees all metadata as expired; a correct clock ends that."""
    await field.honest_server()
    field.box.environment = await clock("2035-01-02 00:00:00")
    await field.starts()
    await field.refuses(EXPIRED, "where the box's clock is wrong")
    assert not (field.box.state_dir / "last-good-time").exists()
    await field.restarts()
    await field.installs(NEW)


# Keys


@pytest.mark.parametrize("role", ["snapshot", "targets"])
@pytest_twisted.ensureDeferred
async def test_key_of_the_server(field: Field, role: str) -> None:
    """The server's own key is valid for timestamps only, and not for releases."""
    await field.starts()
    hijacked = field.hijack()
    hijacked.keys[role] = hijacked.keys["timestamp"]
    hijacked.publish(2, archive(hijacked.updates, NEWER))
    hijacked.timestamp(2, 2)
    await field.refuses(NOT_SIGNED, f"{role} was signed by 0/1 keys")
    field.release(NEW)
    await field.recovers()


@pytest_twisted.ensureDeferred
async def test_fast_forward(field: Field) -> None:
    """An attacker who signs the highest version stops a box until the maker replaces the keys."""
    await field.starts()
    hijacked = field.hijack()
    hijacked.snapshot(UTMOST, 1)
    hijacked.timestamp(UTMOST, UTMOST)
    await field.sees()
    server = await field.honest_server()
    # TUF requires this: a client refuses lower versions than it has seen.
    await field.refuses(OLDER, f"must be >= {UTMOST}")
    await server.stop()
    field.signed.rotate("timestamp", 2)
    field.signed.rotate("snapshot", 3)
    field.release(NEWER)
    await field.honest_server()
    await field.installs(NEWER)


@pytest_twisted.ensureDeferred
async def test_stolen_release_key(field: Field) -> None:
    """A thief of the release key can sign releases, and boxes install them."""
    thief = field.hijack()
    script = INSTALL + b'touch "$OPQ_PREFIX/stolen"\n'
    thief.publish(2, archive(thief.updates, NEW, script))
    # The server's own key is no protection: it signs a timestamp for any release.
    copytree(thief.updates, field.signed.updates, dirs_exist_ok=True)
    field.metadata_set = 2
    await field.honest_server()
    await field.starts()
    await field.installs(NEW)
    assert (field.box.prefix / "stolen").exists()


@pytest_twisted.ensureDeferred
async def test_stolen_release_key_rotated(field: Field) -> None:
    """A box that has seen a root with new keys refuses a stolen release key."""
    stolen = dict(field.signed.keys)
    for version, role in enumerate(("targets", "snapshot"), 2):
        field.signed.rotate(role, version)
    field.release(NEW)
    field.signed.timestamp(2, 2)
    await field.starts()
    await field.sees()
    thief = field.hijack()
    thief.keys = stolen
    thief.publish(3, archive(thief.updates, NEWER))
    thief.timestamp(3, 3)
    await field.refuses(NOT_SIGNED, "snapshot was signed by 0/1 keys")
    for version in (2, 3):
        (thief.folder / f"{version}.root.json").unlink()
    await field.refuses(NOT_SIGNED, "snapshot was signed by 0/1 keys")
    field.release(NEW)
    await field.recovers()


@pytest_twisted.ensureDeferred
async def test_many_rotations(field: Field) -> None:
    """A box that was off during many key replacements follows the roots one by one."""
    for version in range(2, 52):
        field.signed.rotate(ROLES[version % len(ROLES)], version)
    await field.starts()
    await field.recovers()
    assert (field.box.state_dir / "tuf" / "root_history" / "51.root.json").exists()


@pytest_twisted.ensureDeferred
async def test_another_root(field: Field) -> None:
    """A box of another maker accepts nothing of this one."""
    other = Signed(field.signed.updates.with_name("other"))
    other.updates.mkdir()
    field.box.pin(other.init().root(1).to_bytes())
    await field.honest_server()
    await field.starts()
    await field.refuses(NOT_SIGNED, "timestamp was signed by 0/1 keys")
    field.box.pin((field.signed.folder / "1.root.json").read_bytes())
    await field.installs(NEW)


@pytest_twisted.ensureDeferred
async def test_garbage_for_a_root(field: Field) -> None:
    """With an unusable root a box accepts no unsigned release."""
    root = field.box.root
    whole = root.read_bytes()
    await field.honest_server()
    await field.starts()
    for content in (b"", b"garbage", bytes(len(whole)), b"{}", whole[:-100], b" " * 600_000):
        root.write_bytes(content)
        await field.refuses(str(root) if len(content) > 512_000 else "trusted root cannot be used")
    root.write_bytes((field.signed.folder / "1.targets.json").read_bytes())
    await field.refuses("trusted root cannot be used")
    root.unlink()
    root.symlink_to("nowhere")
    await field.refuses(f"The trusted root {root} cannot be read: No such file")
    root.unlink()
    root.mkdir()
    await field.refuses(f"The trusted root {root} cannot be read: Is a directory")
    assert not (await field.box.status())["unsigned"]
    root.rmdir()
    root.write_bytes(whole)
    await field.installs(NEW)


# Without signatures


@pytest_twisted.ensureDeferred
async def test_unsigned_server(field: Field) -> None:
    """A box with a root installs nothing from a server without signatures."""
    away = field.signed.updates.with_name("away")
    field.signed.folder.rename(away)
    field.middleman.let_through(await started(field.start, field.signed.updates))
    await field.starts()
    await field.refuses("The update server does not have all of its signed metadata")
    away.rename(field.signed.folder)
    await field.recovers()


@pytest_twisted.ensureDeferred
async def test_unsigned_box(field: Field) -> None:
    """A box without a root installs unsigned releases only if allowed, and its page says so."""
    note = 'id="unsigned" {}>This box installs releases without checking who made them.'
    field.box.root.unlink()
    await field.honest_server()
    await field.starts(allow_unsigned=False)
    await field.refuses("The release is not signed for this box, which has no trusted root")
    assert not (await field.box.status())["unsigned"]
    await field.shows(note.format("hidden"))
    await field.box.agent.stop()

    await field.starts(allow_unsigned=True)
    assert (await field.box.status())["unsigned"]
    await field.shows(note.format(""))
    await field.box.click()
    await field.box.reboots_to(NEW)


# Mirrors


@pytest_twisted.ensureDeferred
async def test_lying_mirror(field: Field) -> None:
    """A mirror cannot replace an archive."""
    whole = (field.signed.updates / str(UpdateName(NEW))).read_bytes()
    field.middleman.answers[ARCHIVE] = Answer(http(whole[:-20] + bytes(20)))
    server = await field.honest_server("--mirror", field.middleman.url)
    field.middleman.let_through(None)
    await field.starts(endpoint=server.url)
    await field.refuses("another SHA-256")
    assert field.middleman.asked == [ARCHIVE]
    field.middleman.answers = {}
    await field.installs(NEW)


# Mistakes that the release key has signed


@pytest_twisted.ensureDeferred
async def test_channel_without_sense(field: Field) -> None:
    """A channel with wrong values, such as the name of another archive, is refused."""
    await field.starts()
    path = field.signed.updates / str(UpdateName(NEW))
    nonsense: list[tuple[dict[str, Any], str]] = [
        ({"version": NEWER}, f"its version is not that of {path.name}"),
        ({"version": str(NEW)}, f"its version is not that of {path.name}"),
        ({"file": str(UpdateName(NEWER))}, f"its version is not that of {UpdateName(NEWER)}"),
        ({"file": "../../etc/passwd"}, "it names no archive"),
        ({"file": None}, "it names no archive"),
        ({"allow_downgrade": "yes"}, "its allow_downgrade is neither"),
        ({"rollout": {"percent": 101, "salt": "s"}}, "its rollout is not"),
    ]
    for version, (custom, detail) in enumerate(nonsense, 2):
        field.metadata_set = version
        field.signed.publish(version, path, custom=custom)
        field.signed.timestamp(version, version)
        await field.refuses(
            "The release key signed a channel 'stable' that no box can follow", detail
        )
    await field.recovers()


@pytest_twisted.ensureDeferred
async def test_two_names_for_one_release(field: Field) -> None:
    """An archive whose content has another version than its channel is refused."""
    name = UpdateName(NEW)
    members = layout(OLD, f"{name.folder}/", INSTALL)
    path = write_archive(field.signed.updates / str(name), stream(*members))
    field.metadata_set += 1
    field.signed.publish(field.metadata_set, path)
    await field.honest_server()
    await field.starts()
    await field.refuses(f"its VERSION holds {OLD} and not {NEW}")
    await field.recovers()


# Rollouts and versions


@pytest.mark.parametrize(
    "custom",
    [
        None,
        {"rollout": {"percent": 100, "salt": "s"}},
        {"rollout": {"percent": 0, "salt": "s"}, "critical": True},
    ],
    ids=["click", "for all", "critical"],
)
@pytest_twisted.ensureDeferred
async def test_rollout(field: Field, custom: dict[str, Any] | None) -> None:
    """A box waits until a release is for all boxes or critical; a click installs it at once."""
    field.release(NEW, rollout={"percent": 0, "salt": "s"})
    await field.honest_server()
    await field.starts(install="automatic", check_every=0.1, spread=0)
    await field.box.shows(lambda status: "comes to this box later" in status["message"])
    field.has_nothing_new()
    if custom is None:
        await field.installs(NEW)
    else:
        field.release(NEW, **custom)
        await field.box.reboots_to(NEW)


@pytest_twisted.ensureDeferred
async def test_release_before(field: Field) -> None:
    """During a rollout a box gets the release before it at once, and waits with that one."""
    before = describe_before(channel(field.release(NEW)))
    field.release(NEWER, rollout={"percent": 0, "salt": "s"}, before=before)
    await field.honest_server()
    await field.starts(install="automatic", check_every=0.1, spread=0)
    await field.box.reboots_to(NEW)
    await field.box.shows(lambda status: "it is held back" in status["message"])
    assert not (await field.box.status())["update_available"]


def pace(bp: int, state: str = BAKING) -> dict[str, Any]:
    """Make the field of a timestamp with the pace of the new release."""
    return {FIELD: {"stable": Pace(NEW, bp, state).to_json()}}


@pytest.mark.parametrize("by_click", [False, True], ids=["by itself", "click"])
@pytest_twisted.ensureDeferred
async def test_stopped(field: Field, by_click: bool) -> None:
    """A release that the operator has stopped waits for the operator, or for a click."""
    field.signed.timestamp(2, 1, fields=pace(ALL, HELD))
    await field.starts(install="automatic", check_every=0.1, spread=0)
    sentence = "the operator has stopped it for now. Click on Update Box to have it nevertheless."
    await field.box.shows(lambda status: sentence in status["message"])
    await field.shows(sentence)
    field.has_nothing_new()
    if by_click:
        await field.installs(NEW)
    else:
        field.signed.timestamp(3, 1, fields=pace(ALL))
        await field.box.reboots_to(NEW)


@pytest_twisted.ensureDeferred
async def test_stopped_while_it_waits(field: Field) -> None:
    """A box looks once more right before it installs a release by itself."""
    inhibitor = field.box.prefix.with_name("inhibit-update")
    inhibitor.touch()
    field.box.set_constants({"install.inhibitor._POLL_INTERVAL": 0.1})
    await field.starts(install="automatic", check_every=0.1, spread=0, inhibit_file=str(inhibitor))
    await field.box.shows(lambda status: "Waiting for a measurement" in status["message"])
    field.signed.timestamp(2, 1, fields=pace(ALL, HELD))
    inhibitor.unlink()
    await field.box.shows(lambda status: "the operator has stopped it" in status["message"])
    field.has_nothing_new()
    field.signed.timestamp(3, 1, fields=pace(ALL))
    await field.box.reboots_to(NEW)


@pytest_twisted.ensureDeferred
async def test_downgrade(field: Field) -> None:
    """An older release is installed only if the release key allows it."""
    field.box.install(NEWER)
    await field.declines(
        f"The box is up to date: release {NEW}, which is offered, is older than the one installed."
    )
    field.release(NEW, allow_downgrade=True)
    await field.announced()
    await field.installs(NEW)


@pytest_twisted.ensureDeferred
async def test_older_than_the_image(field: Field) -> None:
    """No release that is older than the box's image is installed."""
    between = (NEW + NEWER) // 2
    (field.box.prefix / "IMAGE_VERSION").write_text(f"{between}\n")
    await field.declines(
        f"Release {NEW} is not installed: it is older than {between}, which the box was made with."
    )
    await field.recovers()
