"""A message reaches its receiver, which is busy at first, while the server is killed."""

import json
import signal
from pathlib import Path

import pytest_twisted
from sqlalchemy import func, select, update
from twisted.internet import reactor

from opq_twisted.fleet.store.engine import make_engine
from opq_twisted.fleet.store.migrate import migrate_database
from opq_twisted.fleet.store.schema import notice
from opq_twisted.fleet.webhook.outbox import Event, Notice, put
from opq_twisted.fleet.webhook.post import sign
from tests.functional.conftest import StartDaemon
from tests.functional.fleet import FleetServer, short_folder
from tests.functional.processes import until
from tests.helpers.signed_metadata import Signed
from tests.helpers.webhook_receiver import OK, Receiver, answer

SECRET = "correct horse battery staple"
TEXT = "Release 1547947203 is held: 3 of 5 boxes are bad."


@pytest_twisted.ensureDeferred
async def test_delivered(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """Each try has the same delivery id and a right signature; after the success there is none."""
    url = f"sqlite:///{tmp_path}/fleet.db"
    migrate_database(url)
    engine = make_engine(url)
    with engine.begin() as connection:
        put(connection, 1_800_000_000.0, Notice(Event.HELD, TEXT, numbers={"bad": 3}))
    receiver = Receiver(reactor, answer("500 x"), OK)
    (tmp_path / "secret").write_text(SECRET)
    with short_folder() as folder:
        fleet = FleetServer(
            *(start, updates, Signed(updates).init(), url, folder / "fleet.sock"),
            (
                *("--webhook", f"{receiver.origin}/hooks/fleet"),
                *("--webhook-secret-file", tmp_path / "secret"),
            ),
        )
        for number in range(2):
            arrived = receiver.next_request()
            await fleet.start()
            await arrived
            assert len(receiver.requests) == number + 1
            if number == 0:
                await fleet.server.stop(signal.SIGKILL)
                # The pause is over.
                with engine.begin() as connection:
                    connection.execute(update(notice).values(next_at=0))

        async def waiting() -> int:
            with engine.connect() as connection:
                return connection.execute(select(func.count()).select_from(notice)).scalar_one()

        await until(waiting, lambda number: number == 0)
        assert await fleet.ask("webhook-test") == {"webhook": receiver.origin}
        receiver.answers.append(answer("404 x"))
        receiver.answers.popleft()
        refusal = await fleet.ask("webhook-test", status=1)
        assert "it answers with status 404" in refusal["error"]
    await receiver.stop()
    engine.dispose()
    *tries, tried, _ = receiver.requests
    assert [json.loads(request.body)["text"] for request in tries] == [TEXT] * 2
    assert len({request.headers["Opq-Delivery"] for request in tries}) == 1
    assert (tries[0].headers["Opq-Event"], tried.headers["Opq-Event"]) == ("held", "test")
    for request in receiver.requests:
        signature = request.headers["Opq-Signature"]
        at = int(signature.partition(",")[0].removeprefix("t="))
        assert signature == sign(request.body, at, SECRET)
