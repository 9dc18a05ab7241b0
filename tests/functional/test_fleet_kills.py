"""
Kills of the agent, the server and PostgreSQL lose no attempt, and count none twice.

They come at random moments of an update that is installed, or rolled back. A sample of the seeds is
tried; `make torture` tries 200.
"""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_twisted
from sqlalchemy import select
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from opq_twisted.fleet.store import schema
from opq_twisted.fleet.store.engine import make_engine
from opq_twisted.fleet.store.migrate import migrate_database
from tests.functional.box import INSTALL, OLD, Box, Spawn
from tests.functional.box import archive as small_archive
from tests.functional.conftest import StartDaemon
from tests.functional.fleet import FleetServer, short_folder
from tests.functional.processes import POLL_INTERVAL, Server, until
from tests.helpers.postgres import Postgres
from tests.helpers.signed_metadata import Signed
from tests.helpers.torture import SEED, TORTURE

NEW = 1547860803

SEEDS = range(SEED, SEED + (200 if TORTURE else 2))

#: Seconds until a box has reported that was told twice to come back later.
LONGEST = 400

#: Ends with an error on the box, so that the box rolls back.
BROKEN = INSTALL + b'[ "$OPQ_VERSION" != %d ] || exit 1\n' % NEW


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """Run a server that survives the loss of power."""
    server = Postgres(fsync=True)
    yield server
    server.remove()


class Victims:
    """The programs; each one that ends is started again at once."""

    def __init__(self, box: Box, fleet: FleetServer, postgres: Postgres | None) -> None:
        self._box = box
        self._fleet = fleet
        self._postgres = postgres
        self.kills: list[Callable[[], None]] = [self._kill_agent, self._kill_server]
        if postgres is not None:
            self.kills.append(self._kill_postgres)
        self._is_over = False
        self._keeping = [Deferred.fromCoroutine(each()) for each in (self._agents, self._servers)]

    async def end(self) -> None:
        """Start no program again, and end those that run."""
        self._is_over = True
        for each in self._keeping:
            await each
        await self._box.agent.stop()
        await self._fleet.server.stop()

    async def _agents(self) -> None:
        while not self._is_over:
            await self._end_of(self._box.launch())

    async def _servers(self) -> None:
        while not self._is_over:
            await self._end_of(self._fleet.server)
            if not self._is_over:
                await self._fleet.start()

    async def _end_of(self, program: Server) -> None:
        # `Server.ends` would not wait for as long as a box may have to.
        while program.status is None and not self._is_over:
            await deferLater(reactor, POLL_INTERVAL)

    def _kill_agent(self) -> None:
        _kill(self._box.agent)

    def _kill_server(self) -> None:
        _kill(self._fleet.server)

    def _kill_postgres(self) -> None:
        assert self._postgres is not None
        self._postgres.kill()
        self._postgres.start()


def _kill(program: Any) -> None:
    if program.status is None and program.transport.pid is not None:
        program.transport.signalProcess(signal.SIGKILL)


def attempts_of(box: Box) -> dict[str, dict[str, Any]]:
    """Read the attempts in the journal of a box."""
    path = box.state_dir / "journal.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    return {each["uuid"]: each for each in content.get("attempts", ())}


def is_complete(attempts: dict[str, dict[str, Any]]) -> bool:
    """Whether an attempt for the new release has ended, and the server has acknowledged all."""
    ended = any(each["outcome"] in ("updated", "returned") for each in attempts.values())
    return ended and all(each["reported"] for each in attempts.values())


def stored(url: str) -> dict[str, str | None]:
    """Read the outcomes of all attempts in the database."""
    table = schema.attempt.c
    with make_engine(url).connect() as connection:
        rows = connection.execute(select(table.attempt_id, table.outcome)).all()
        assert len(connection.execute(select(schema.box.c.id)).all()) <= 1
    assert len({row.attempt_id for row in rows}) == len(rows)
    return {row.attempt_id: row.outcome for row in rows}


@pytest.mark.parametrize("seed", SEEDS)
@pytest_twisted.ensureDeferred
async def test_kills(
    start: StartDaemon, spawn: Spawn, updates: Path, tmp_path: Path, postgres: Postgres, seed: int
) -> None:
    """After kills, the database has each attempt of the box once, with the outcome that it had."""
    random = Random(seed)
    signed = Signed(updates).init()
    good = small_archive(updates, OLD)
    has_postgres = seed % 2 == 1
    url = postgres.url(postgres.new_database()) if has_postgres else f"sqlite:///{tmp_path}/fleet"
    migrate_database(url)
    box = Box(spawn, tmp_path / "box")
    box.report_promptly()
    box.install(OLD)
    box.keep_as_last_good(good)
    box.pin((signed.folder / "1.root.json").read_bytes())
    with short_folder() as folder:
        fleet = FleetServer(start, updates, signed, url, folder / "fleet.sock")
        await fleet.start()
        box.configure(fleet.server.url, install="automatic", check_every=1, spread=0)
        signed.publish(1, small_archive(updates, NEW, random.choice([INSTALL, BROKEN])))
        victims = Victims(box, fleet, postgres if has_postgres else None)
        for _ in range(random.randint(1, 4)):
            await deferLater(reactor, random.uniform(0, 3))
            random.choice(victims.kills)()

        async def attempts() -> dict[str, dict[str, Any]]:
            return attempts_of(box)

        known = await until(attempts, is_complete, LONGEST)
        await victims.end()
    assert stored(url) == {uuid: each["outcome"] for uuid, each in known.items()}
