"""Several servers take the reports of one fleet, behind nginx, over one PostgreSQL."""

from pathlib import Path

import pytest_twisted
from attrs import evolve
from sqlalchemy import select
from twisted.internet.defer import Deferred, gatherResults

from opq_twisted.fleet.store import schema
from opq_twisted.fleet.store.engine import make_engine
from opq_twisted.fleet.store.migrate import migrate_database
from tests.functional.conftest import WITH_POSTGRES, StartDaemon
from tests.functional.fleet import send_report, short_folder
from tests.functional.nginx import in_front_of
from tests.functional.update_server import started
from tests.helpers.postgres import Postgres
from tests.helpers.reporting_box import ReportingBox, attempt

#: Boxes, and the reports of each.
BOXES, REPORTS = 6, 3


@WITH_POSTGRES
@pytest_twisted.ensureDeferred
async def test_one_truth(
    start: StartDaemon, spawn: StartDaemon, updates: Path, tmp_path: Path, postgres: Postgres
) -> None:
    """A box may report to any of them: what one has stored, the others know."""
    url = postgres.url(postgres.new_database())
    migrate_database(url)
    with short_folder() as folder:
        servers = [
            await started(
                *(start, updates, "--fleet-db", url),
                *("--fleet-socket", folder / f"{number}.sock"),
            )
            for number in range(3)
        ]
        nginx = await in_front_of(spawn, tmp_path / "nginx", *(each.url for each in servers))
        boxes = [ReportingBox(number + 1) for number in range(BOXES)]
        attempts = {box.key: attempt() for box in boxes}

        async def report(box: ReportingBox) -> None:
            for _ in range(REPORTS):
                incoming = box.send(attempts=(attempts[box.key],))
                assert (await send_report(nginx.url, incoming)).status == 200
            for server in servers:
                # The same bytes again, as after an answer that was lost.
                assert (await send_report(server.url, incoming)).status == 200
            older = box.sign(evolve(box.report, seq=1))
            for server in servers:
                assert (await send_report(server.url, older)).status == 409

        await gatherResults([Deferred.fromCoroutine(report(box)) for box in boxes])
        with make_engine(url).connect() as connection:
            stored = connection.execute(select(schema.box.c.key_id, schema.box.c.seq)).all()
            known = connection.execute(select(schema.attempt.c.attempt_id)).scalars().all()
    assert sorted(map(tuple, stored)) == sorted((box.key, REPORTS) for box in boxes)
    assert sorted(known) == sorted(each.id for each in attempts.values())
