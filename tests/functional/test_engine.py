"""A server widens a good release by itself, and holds a bad one, by what boxes report."""

from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from opq_twisted.fleet.reports.incoming import Incoming
from opq_twisted.report.codes import Outcome, Reason
from opq_twisted.trust.pace import ALL, FIELD, HELD
from tests.functional.conftest import StartDaemon
from tests.functional.fleet import OPQ_FLEET, FleetServer, send_report, short_folder
from tests.functional.processes import run, until
from tests.functional.update_server import archive
from tests.helpers.reporting_box import ReportingBox, attempt
from tests.helpers.signed_metadata import Signed
from tests.helpers.webhook_receiver import Receiver

OLD, GOOD, BAD = 1547774400, 1547860803, 1547947203

#: A first step has five of them.
BOXES = 20

#: A step, which is a day, takes a second.
SHORTEN = 86_400

WITH_EVERYTHING = {"rollout": {"percent": 100, "salt": "s"}}


class Fleet:
    """A server, and boxes that wait for their turn."""

    def __init__(self, server: FleetServer) -> None:
        self.server = server
        self.boxes = [
            ReportingBox(number, release=OLD, waiting="turn") for number in range(1, BOXES + 1)
        ]
        #: How many boxes run the good release.
        self.updated = 0

    async def admit(self, folder: Path) -> None:
        """Let all boxes report, and trust them: unknown ones would be too young to count."""
        await self.report_all(self.boxes)
        lines = (f"{each.report.box},{each.key}\n" for each in self.boxes)
        file = folder / "keys"
        file.write_text("".join(lines))
        await self.server.ask("admit", file, "--because", "they are ours")

    async def report_all(self, boxes: list[ReportingBox], **fields: Any) -> None:
        """Let boxes report."""
        sent = (self.take(each.send(**fields)) for each in boxes)
        await gatherResults(map(Deferred.fromCoroutine, sent))

    async def take(self, report: Incoming) -> None:
        """Send a report, which must be accepted."""
        assert (await send_report(self.server.server.url, report)).status == 200

    async def read_pace(self) -> dict[str, Any]:
        """Return the pace in the signed timestamp."""
        field = self.server.signed.read_timestamp().unrecognized_fields.get(FIELD, {})
        found: dict[str, Any] = field.get("stable", {})
        return found

    async def follow(self) -> int:
        """Let as many boxes run the good release as the timestamp says; returns its share."""
        share: int = (await self.read_pace()).get("bp", 0)
        drawn = BOXES * share // ALL
        for each in self.boxes[self.updated : drawn]:
            tried = attempt(release=GOOD, previous=OLD, outcome=Outcome.UPDATED, stage="idle")
            await self.take(each.send(release=GOOD, waiting=None, attempts=(tried,)))
        self.updated = drawn
        return share


@pytest_twisted.ensureDeferred
async def test_walk_and_hold(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """The signed share of a good release grows up to 100 %; four bad boxes stop the next one."""
    signed = Signed(updates).init()
    receiver = Receiver(reactor)
    options = ("--rollouts", "auto", "--shorten-rollouts", SHORTEN, "--webhook", receiver.origin)
    with short_folder() as short:
        server = FleetServer(
            *(start, updates, signed, f"sqlite:///{tmp_path}/fleet.db", short / "fleet.sock"),
            options,
        )
        await server.start()
        fleet = Fleet(server)
        await fleet.admit(tmp_path)

        signed.publish(1, archive(updates, GOOD), custom=WITH_EVERYTHING)
        await server.server.says("signed timestamp .* for 1.snapshot")
        shares = [await until(fleet.follow, bool)]
        while shares[-1] < ALL:
            shares.append(await until(fleet.follow, lambda share: share > shares[-1]))
        assert shares == [2500, 5000, ALL]
        assert fleet.updated == BOXES
        page = await server.ask("release", GOOD)
        assert [(each["who"], each["what"]) for each in page["changes"]] == [
            ("engine", "widen")
        ] * 2
        assert page["changes"][0]["change"] == "From baking at 50 % to done at 100 %."
        assert "0 of 10 boxes are bad, 10 well" in page["changes"][0]["because"]

        signed.publish(2, archive(updates, BAD), custom=WITH_EVERYTHING)
        await until(fleet.read_pace, lambda pace: pace["version"] == BAD)
        failed = {"outcome": Outcome.RETURNED, "reason": Reason.UNHEALTHY_SERVICE}
        for box in fleet.boxes[:4]:
            tried = attempt(release=BAD, previous=GOOD, stage="idle", **failed)
            await fleet.take(box.send(attempts=(tried,)))
        pace = await until(fleet.read_pace, lambda pace: pace["state"] == HELD)
        assert (pace["version"], pace["bp"]) == (BAD, 2500)
        status = await server.ask("status", status=10)
        [stable] = status["channels"]
        assert (stable["state"], status["rollouts"]) == ("held", "auto")
        assert "4 of 4 boxes are bad (unhealthy-service 4)" in stable["sentence"]
        code, said, _ = await run(OPQ_FLEET, "--socket", str(server.socket), "status")
        assert (code, stable["sentence"] in said) == (10, True)

        async def told() -> list[str]:
            events = [request.headers["Opq-Event"] for request in receiver.requests]
            return [event for event in events if event in ("widened", "done", "held")]

        await until(told, lambda events: events == ["widened", "done", "held"])
    await receiver.stop()
