"""Measures what a day of reporting costs a box: CPU time, and bytes on the wire."""

import argparse
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from benchmarks import servers
from benchmarks.figures import report
from benchmarks.relay import Link, Relay, relay
from benchmarks.watch import FIRST
from benchmarks.watch import fill as fill_updates
from opq_twisted.archive.release import Release
from opq_twisted.box.config.settings import BoxConfig, UpdaterConfig
from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.box.network.http_agent import make_http_clients
from opq_twisted.box.network.report_client import ReportClient
from opq_twisted.box.network.update_server import UpdateServerClient
from opq_twisted.box.report.answers import Result, Verdict
from opq_twisted.box.report.compose import Composer
from opq_twisted.box.report.content import content_of
from opq_twisted.box.report.exchange import Exchange
from opq_twisted.box.report.identity import FILE, load_identity
from opq_twisted.box.report.record import ReportRecord
from opq_twisted.box.state.journal import Journal
from opq_twisted.box.state.records import Attempt
from opq_twisted.box.state.stages import Stage
from opq_twisted.box.state.versions import Installed

#: An agent looks for something to report after each check: one an hour.
CHECKS = 24

#: It reports every two hours or so while it waits for its turn.
REPORTS_OF_WAITING = 12

_BOOT = "0f3a64a4-2f3e-4ee2-8ab5-91c5e0cbdf1d"
_RELEASE = Release(FIRST, 12_300_000, {"sha256": "ab" * 32})


@frozen
class Cost:
    """What a day of reports costs."""

    #: Seconds.
    cpu: float
    bytes: float


class Box:
    """The part of an agent that reports, on a real disk and a real network."""

    def __init__(self, reactor: Any, place: Path, url: str) -> None:
        config = BoxConfig(url, 7, UpdaterConfig(install="automatic"))
        identity = load_identity(place / FILE)
        assert identity is not None
        self.journal = Journal(place / "journal.json", _BOOT)
        self.composer = Composer(
            identity=identity,
            config=config,
            token=None,
            installed=Installed(place / "VERSION", place / "IMAGE", FIRST - 1),
            archives=ArchiveStore(place),
            journal=self.journal,
            is_signed=lambda: False,
            boot_id=_BOOT,
            metadata=place,
            waiting=lambda: None,
            now=time.time,
        )
        server = UpdateServerClient(reactor, make_http_clients(reactor), url, lambda: "bench")
        self._exchange = Exchange(
            self.composer,
            identity,
            ReportClient(reactor, server),
            self.journal,
            ReportRecord(),
            time.time,
        )

    async def quiet_day(self) -> None:
        """Find nothing new after each check, and report once."""
        for _ in range(CHECKS):
            content_of(self.composer.compose(0))
        await self._report()

    async def day_of_waiting(self) -> None:
        """Find nothing new after each check, and tell often that the box is there."""
        for _ in range(REPORTS_OF_WAITING - 1):
            await self._report()
        await self.quiet_day()

    async def day_with_update(self) -> None:
        """Report before the installation, and its outcome, besides what a quiet day needs."""
        await self.quiet_day()
        journal, now = self.journal, time.time()
        begun = journal.next_attempt(now, FIRST - 1)
        begun |= {"stage": Stage.INSTALLING, "release": _RELEASE}
        journal.write(**begun)
        await self._report()
        attempt = Attempt(
            FIRST,
            started=now,
            ended=now + 240,
            outcome="updated",
            reason="",
            id=journal.entry.attempt,
            size=_RELEASE.size,
            fetched=141_500,
            uuid=journal.entry.uuid,
            previous=FIRST - 1,
            automatic=True,
            stage="idle",
            tries=1,
            code="",
        )
        journal.end(Stage.IDLE, attempt)
        await self._report()

    async def _report(self) -> None:
        result: Result = await self._exchange.send()
        if result.verdict is not Verdict.ACCEPTED:
            raise SystemExit(f"The server did not take the report: {result.sentence}")
        self.journal.acknowledge(result.done, result.report.seq)


async def measure(relay: Relay, days: int, day: Callable[[], Awaitable[None]]) -> Cost:
    """Let some days pass, and return what one of them has cost."""
    cpu, sent = time.thread_time(), relay.bytes
    for _ in range(days):
        await day()
    return Cost((time.thread_time() - cpu) / days, (relay.bytes - sent) / days)


async def run(reactor: Any, relay: Relay, place: Path, days: int) -> None:
    """Measure and print."""
    box = Box(reactor, place, relay.url)
    # The first report also has the public key, and loads the rest of the client.
    await box.day_with_update()
    for name, day in (
        ("a quiet day", box.quiet_day),
        ("a day with an update", box.day_with_update),
        ("a day of waiting for the turn", box.day_of_waiting),
    ):
        cost = await measure(relay, days, day)
        report(f"ms of the agent's CPU for the reports of {name}", 1000 * cost.cpu)
        report(f"bytes on the wire for the reports of {name}", cost.bytes)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report_cost", description=__doc__)
    parser.add_argument("--days", type=int, default=20, help="of each kind (20)")
    days = parser.parse_args().days
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        updates = place / "updates"
        updates.mkdir()
        fill_updates(updates, 1)
        options = ["--fleet-db", f"sqlite:///{place}/fleet.db"]
        options += ["--fleet-socket", str(place / "fleet.sock")]
        with (
            servers.update_server(updates, place, options=options) as server,
            relay(server.port, Link()) as counted,
            servers.on_core(servers.LOAD_CORE),
        ):
            react(lambda reactor: Deferred.fromCoroutine(run(reactor, counted, place, days)))


if __name__ == "__main__":
    main()
