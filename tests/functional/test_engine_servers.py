"""Of several servers over one PostgreSQL one decides about the rollouts, whatever ends."""

import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from sqlalchemy import Connection, select
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from opq_twisted.fleet.rollouts.rollout import Rollout, find
from opq_twisted.fleet.store import schema
from opq_twisted.fleet.store.engine import make_engine
from opq_twisted.fleet.store.migrate import migrate_database
from opq_twisted.fleet.store.states import RolloutState
from opq_twisted.report.document import AttemptReport
from opq_twisted.trust.pace import FIELD
from tests.functional.box import archive
from tests.functional.conftest import WITH_POSTGRES, StartDaemon
from tests.functional.fleet import FleetServer, send_report, short_folder
from tests.functional.nginx import Answer, ask, in_front_of
from tests.functional.processes import Server, until
from tests.functional.update_server import metrics
from tests.helpers.postgres import Postgres
from tests.helpers.reporting_box import NEW, OLD, ReportingBox, attempt
from tests.helpers.signed_metadata import Signed

#: Enough that the rollout has three steps: 5 boxes, 20 %, 50 % and all.
BOXES = 40

#: Times of the engine are divided by this: a step lasts 1.1 seconds, and another server takes over
#: after 2.
SHORTENED = 80_000

pytestmark = WITH_POSTGRES

WITH_EVERYTHING = {"rollout": {"percent": 100, "salt": "s"}}


class Site:
    """Three servers with one directory and one database, behind nginx, and their boxes."""

    def __init__(
        self, start: StartDaemon, spawn: StartDaemon, updates: Path, folder: Path, url: str
    ) -> None:
        self._spawn = spawn
        self._nginx_folder = updates.with_name("nginx")
        self.nginx: Server
        self.signed = Signed(updates).init()
        #: That of the tests; its connections end with PostgreSQL.
        self.engine = make_engine(url)
        more = ("--rollouts", "auto", "--shorten-rollouts", SHORTENED)
        #: The last one has the timestamp's key.
        self.servers = [
            FleetServer(
                *(start, updates, self.signed, url, folder / f"{number}.sock"),
                more=more,
                signs=number == 3,
            )
            for number in (1, 2, 3)
        ]
        #: The name of the first server's engine. On a busy machine another may take over any time.
        self.first_holder = ""
        self.boxes = [ReportingBox(number, waiting=None) for number in range(1, BOXES + 1)]

    async def starts(self) -> None:
        """Start everything; the first server is the first one to run the engine."""
        self.publish(1, OLD)
        first, *others = self.servers
        await first.start()
        self.first_holder = await until(self.holder, bool)
        await gatherResults([Deferred.fromCoroutine(each.start()) for each in others])
        urls = (each.server.url for each in self.servers)
        self.nginx = await in_front_of(self._spawn, self._nginx_folder, *urls)

    def publish(self, version: int, release: int) -> None:
        """Publish a release for all boxes."""
        self.signed.publish(version, archive(self.signed.updates, release), custom=WITH_EVERYTHING)

    async def admit(self) -> None:
        """Let the reports of all boxes count, although their keys are young."""
        lines = (f"{each.report.box},{each.key}\n" for each in self.boxes)
        keys = self.signed.updates.with_name("keys.csv")
        keys.write_text("".join(lines))
        await self.servers[0].ask("admit", keys, "--because", "They are ours.")

    async def report(self, boxes: Iterable[ReportingBox], **fields: Any) -> None:
        """Let boxes report; one whose report cannot be stored now sends it again."""
        await gatherResults(
            [Deferred.fromCoroutine(self._report(each, **fields)) for each in boxes]
        )

    async def _report(self, box: ReportingBox, **fields: Any) -> None:
        incoming = box.send(**fields)

        async def send() -> int:
            return (await send_report(self.nginx.url, incoming)).status

        assert await until(send, lambda status: status not in (502, 503, 504)) == 200

    async def read(self, query: Any) -> Any:
        """Run a query."""

        def run() -> Any:
            with self.engine.connect() as connection:
                return query(connection)

        return await deferToThread(run)

    async def holder(self) -> str:
        """Return the name of the process that runs the engine; it is empty before the first run."""
        query = select(schema.engine.c.holder)
        return await self.read(lambda connection: connection.scalar(query)) or ""

    async def decisions(self) -> list[tuple[str, str]]:
        """Return what the engine has done with the new release, the oldest first."""
        audit = schema.audit.c
        query = (
            select(audit.what, audit.change)
            .where(audit.who == "engine", audit.release == NEW, audit.what.in_(("hold", "widen")))
            .order_by(audit.id)
        )
        found = await self.read(lambda connection: connection.execute(query).all())
        return [(what, change) for what, change in found]

    async def rollout(self) -> Rollout:
        """Return the rollout of the new release."""

        def read(connection: Connection) -> Rollout:
            [found] = find(connection, schema.rollout.c.release == NEW)
            return found

        found: Rollout = await self.read(read)
        return found

    async def decides(self, count: int) -> None:
        """Wait until the engine has made so many decisions."""
        await until(self.decisions, lambda made: len(made) >= count)

    async def pace(self) -> Any:
        """Return what the timestamp says of the new release; None if it says nothing."""
        entry = self.signed.read_timestamp().unrecognized_fields.get(FIELD, {}).get("stable", {})
        return entry if entry.get("version") == NEW else None

    async def wait(self, number: int) -> list[Deferred[Answer]]:
        """Let boxes wait for a release; returns their answers when they come."""
        tag = str((await ask(self.nginx, "/version")).headers["ETag"])
        headers = {"Prefer": "wait=300", "If-None-Match": tag}
        return [Deferred.fromCoroutine(ask(self.nginx, "/version", headers)) for _ in range(number)]

    async def waiting(self) -> list[int]:
        """Return the number of boxes that wait at each server."""
        found = [await metrics(each.server) for each in self.servers]
        return [int(each["opq_waiting_boxes",]) for each in found]


def updated() -> AttemptReport:
    return attempt(stage="idle", outcome="updated")


def failed() -> AttemptReport:
    return attempt(stage="returning", outcome="returned", reason="unhealthy-service")


async def kill(server: FleetServer) -> None:
    server.server.transport.signalProcess(signal.SIGKILL)  # type: ignore[union-attr]
    await server.server.ends()


async def hold_while_boxes_wait(site: Site) -> None:
    """Let boxes wait at all servers, and give an order to one: all boxes learn of it."""
    answers = await site.wait(9)
    waiting = await until(site.waiting, lambda found: sum(found) == 9)
    # Each worker of nginx takes the servers in turn.
    assert min(waiting) > 0
    await site.servers[0].ask("hold", OLD, "--because", "It fails.")
    for answer in await gatherResults(answers):
        assert answer.status == 200


@pytest.fixture
def site(
    start: StartDaemon, spawn: StartDaemon, updates: Path, postgres: Postgres
) -> Iterator[Site]:
    url = postgres.url(postgres.new_database())
    migrate_database(url)
    with short_folder() as folder:
        site = Site(start, spawn, updates, folder, url)
        yield site
    site.engine.dispose()


@pytest_twisted.ensureDeferred
async def test_take_over(site: Site, postgres: Postgres) -> None:
    """
    A rollout walks on, and is held, while a server is killed, PostgreSQL restarts, and another
    server is killed; each decision is made once. Before that, boxes that wait at all three servers
    learn of an order to one of them.

    Only the server with the timestamp's key passes decisions on to the boxes. While it is away they
    are in the database only.
    """
    await site.starts()
    await hold_while_boxes_wait(site)
    first, _, signer = site.servers
    await site.report(site.boxes, release=OLD)
    await site.admit()
    site.publish(2, NEW)
    await until(site.pace, lambda pace: pace is not None)
    drawn, others = site.boxes[:5], site.boxes[5:]
    await site.report(others, waiting="turn")
    await site.report(drawn, release=NEW, attempts=(updated(),))
    await site.decides(1)
    await kill(first)
    await until(site.holder, lambda found: found != site.first_holder)
    assert (await ask(site.nginx, f"/update/opq-box-update-{NEW}.tar.bz2")).status == 200
    await site.decides(2)
    postgres.stop()
    site.engine.dispose()
    postgres.start()
    await site.report(others[:10], release=NEW, waiting=None, attempts=(updated(),))
    await until(site.rollout, lambda found: found.state == RolloutState.DONE)
    await until(site.pace, lambda pace: pace["bp"] == 10_000)
    assert [what for what, _ in await site.decisions()] == ["widen"] * 3

    await kill(signer)
    await site.report(others[10:20], release=OLD, waiting=None, attempts=(failed(),))
    await until(site.rollout, lambda found: found.is_held)
    assert (await site.pace())["state"] != "held"
    await signer.start()
    await until(site.pace, lambda pace: pace["state"] == "held")
    made = await site.decisions()
    assert [what for what, _ in made] == ["widen"] * 3 + ["hold"]
    assert len(set(made)) == len(made)
