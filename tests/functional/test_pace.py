"""A release is held, slowed and resumed by changes of the database, without another signature."""

from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any, TypeVar

import pytest
import pytest_twisted
from sqlalchemy import Connection
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from opq_twisted.fleet.audit import AuditNote
from opq_twisted.fleet.rollouts.orders import Order, hold, resume
from opq_twisted.fleet.rollouts.rollout import Rollout, find
from opq_twisted.fleet.store.database import Database
from opq_twisted.trust.pace import ALL, FIELD, HELD, Pace
from tests.functional.box import Box, archive
from tests.functional.conftest import StartDaemon
from tests.functional.nginx import Answer, ask
from tests.functional.processes import Server, until
from tests.functional.update_server import started
from tests.helpers.signed_metadata import Signed, write_key

RELEASE = 1547860803

_T = TypeVar("_T")

SIGNED = r"signed timestamp \d+ for {}.snapshot.json: {}"


class Site:
    """An update server with a database, and the operator who changes that."""

    def __init__(self, start: StartDaemon, updates: Path) -> None:
        self._start = start
        self.signed = Signed(updates).init()
        self.archive = archive(updates, RELEASE)
        self.signed.publish(1, self.archive)
        self.database = updates.with_name("fleet.db")
        self.socket = updates.with_name("fleet.sock")
        self.key = write_key(updates.with_name("timestamp.pem"), self.signed.keys["timestamp"])
        self.server: Server

    async def starts(self, *options: object, database: bool = True) -> None:
        """Start the server, and wait until it has checked the metadata."""
        if database:
            options = ("--fleet-socket", self.socket, *options)
            options = ("--fleet-db", f"sqlite:///{self.database}", *options)
        options = ("--timestamp-key", self.key, "--heartbeat", 3600, *options)
        self.server = await started(self._start, self.signed.updates, *options)
        await self.server.says("Serving ")

    async def orders(self, order: Callable[..., Rollout], *more: Any) -> Rollout:
        """Change the rollout in the database, as another process does."""
        note = AuditNote(who="anna", because="boxes lose the network")

        def change(store: Connection) -> Rollout:
            return order(store, Order(note=note, release=RELEASE, now=1.0), *more)

        return await self._ask(change)

    async def rollouts(self) -> list[Rollout]:
        """Return the rollouts in the database."""
        return await self._ask(find)

    async def _ask(self, change: Callable[[Connection], _T]) -> _T:
        database = Database(reactor, f"sqlite:///{self.database}")
        try:
            return await deferToThread(database.write_now, change)
        finally:
            database.engine.dispose()

    def pace(self) -> Any:
        """Return the entry of the channel; None if there is none."""
        field = self.signed.read_timestamp().unrecognized_fields.get(FIELD, {})
        return field.get("stable")

    async def paces(self, pace: Pace | None) -> None:
        """Wait until the timestamp has this entry."""
        expected = None if pace is None else pace.to_json()

        async def read() -> Any:
            return self.pace()

        await until(read, lambda entry: entry == expected)

    async def tag(self) -> str:
        """Return the current entity tag of `/version`."""
        return str((await ask(self.server, "/version")).headers["ETag"])

    async def wait(self) -> tuple[str, Deferred[Answer]]:
        """Let a box wait for a release; returns its entity tag, and the answer when it comes."""
        tag = await self.tag()
        headers = {"Prefer": "wait=300", "If-None-Match": tag}
        return tag, Deferred.fromCoroutine(ask(self.server, "/version", headers))


@pytest.fixture
def site(start: StartDaemon, updates: Path) -> Site:
    return Site(start, updates)


@pytest_twisted.ensureDeferred
async def test_hold(site: Site) -> None:
    """Each change is in a new timestamp within seconds, and answers the boxes that wait."""
    await site.starts()
    assert site.pace() is None
    version = site.signed.read_timestamp().version
    for order, more, pace in (
        (hold, (), Pace(RELEASE, ALL, HELD)),
        (resume, (300,), Pace(RELEASE, 300)),
    ):
        tag, answer = await site.wait()
        await site.orders(order, *more)
        answered = await answer
        assert (answered.status, answered.headers["ETag"] == tag) == (200, False)
        await site.paces(pace)
        assert site.signed.read_timestamp().version > version
        version = site.signed.read_timestamp().version
    await site.server.says(SIGNED.format(1, "the pace has changed"))


@pytest_twisted.ensureDeferred
async def test_box(site: Site, box: Box) -> None:
    """A box leaves a held release alone and says why; a resumed one it installs at once."""
    box.pin((site.signed.folder / "1.root.json").read_bytes())
    await site.starts()
    await site.orders(hold)
    await site.paces(Pace(RELEASE, ALL, HELD))
    delays = ("_LONG_POLL_DELAY", "_BUSY_DELAY")
    box.set_constants({f"update.scheduler.{name}": 0.1 for name in delays})
    await box.start_with(site.server.url, install="automatic", check_every=3600, spread=0)
    await box.shows(lambda status: "the operator has stopped it for now" in status["message"])
    assert not box.archives()
    await site.orders(resume)
    await box.reboots_to(RELEASE)


@pytest_twisted.ensureDeferred
async def test_database_lost(site: Site) -> None:
    """A hold outlasts the database, the option, the server, and another signature."""
    held = Pace(RELEASE, ALL, HELD)
    await site.starts()
    await site.orders(hold)
    await site.paces(held)
    site.database.unlink()
    site.signed.publish(2, site.archive)
    await site.server.says(SIGNED.format(2, "the old one names snapshot 1"))
    await site.server.says("The pace of the rollouts is not known: .*fleet.db is missing")
    await site.paces(held)
    await site.server.stop()
    await site.starts(database=False)
    await site.server.says("The timestamp holds or slows the release of stable, and this server")
    await site.paces(held)
    await site.server.stop()
    await site.starts()
    (rollout,) = await site.rollouts()
    assert rollout.is_held
    await site.orders(resume)
    await site.paces(None)


@pytest_twisted.ensureDeferred
async def test_held_while_stopped(site: Site) -> None:
    """A hold that comes while the server does not run is in its first timestamp."""
    await site.starts()
    await site.server.stop()
    await site.orders(hold)
    await site.starts()
    assert site.pace() == Pace(RELEASE, ALL, HELD).to_json()


@pytest_twisted.ensureDeferred
async def test_ask(site: Site) -> None:
    """With `--rollouts ask`, a release begins at the first step, with its first timestamp."""
    await site.starts("--rollouts", "ask")
    assert site.pace() == Pace(RELEASE, 100).to_json()


@pytest_twisted.ensureDeferred
async def test_following_server(site: Site, start: StartDaemon, tmp_path: Path) -> None:
    """A server that copies the metadata sends the same file and the same entity tag."""
    await site.starts()
    await site.orders(hold)
    await site.paces(Pace(RELEASE, ALL, HELD))
    copy = tmp_path / "copy"
    copytree(site.signed.updates, copy)
    other = await started(start, copy)
    await other.says("Serving ")
    names = ("/version", "/tuf/timestamp.json")
    first = [await ask(site.server, name) for name in names]
    second = [await ask(other, name) for name in names]
    assert [each.body for each in first] == [each.body for each in second]
    assert first[0].headers["ETag"] == second[0].headers["ETag"]
