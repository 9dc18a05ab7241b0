"""`/metrics` shows the work and the state of the server."""

import os
import re
import shutil
import time
from ipaddress import ip_network
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.engine.judge import Judge
from opq_twisted.fleet.metrics.collector import FleetMetrics
from opq_twisted.fleet.reports.inbox import Inbox
from opq_twisted.fleet.reports.resource import ReportResource
from opq_twisted.fleet.webhook.post import Poster, Receiver, make_agent
from opq_twisted.fleet.webhook.sender import Sender
from opq_twisted.http.resource import FunctionResource
from opq_twisted.http.site import BoundedSite
from opq_twisted.server.catalog.digests import Digests
from opq_twisted.server.catalog.indexes import Indexes
from opq_twisted.server.catalog.snapshot import Catalog
from opq_twisted.server.catalog.watcher import Watcher
from opq_twisted.server.limits import Downloads
from opq_twisted.server.metrics import LOOPBACK, Metrics
from opq_twisted.server.timestamp.service import Timestamper
from opq_twisted.server.web.long_poll import NewestVersion
from opq_twisted.server.web.resources import make_root
from tests.helpers.archives import make_archive, make_large_archive, name_of
from tests.helpers.http_exchange import Connection
from tests.helpers.project import PROJECT
from tests.helpers.signed_metadata import Signed

BUILT = 1500000000

_here = IPv4Address("TCP", "127.0.0.1", 40000)


class MetricsTests(SynchronousTestCase):
    """The parts of a server, and their metrics."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        make_archive(self.directory / name_of(1), 1)
        make_archive(self.directory / name_of(BUILT), BUILT)
        self.catalog = Catalog(self.directory)
        self.reactor = MemoryReactorClock()
        self.watcher = Watcher(self.reactor, self.catalog)
        self.watcher.startService()
        self.addCleanup(self.watcher.stopService)
        self.downloads = Downloads(1)
        version = NewestVersion(Clock(), self.catalog)
        self.signed = Signed(self.directory)
        self.timestamper = Timestamper(
            self.reactor,
            self.catalog,
            self.signed.keys["timestamp"],
            now=lambda: self.signed.now,
            in_thread=maybeDeferred,
        )
        self.metrics = Metrics(
            self.catalog,
            self.watcher,
            self.downloads,
            version.long_pollers,
            self.timestamper,
            readers=(*LOOPBACK, ip_network("172.18.0.0/16")),
        )
        root = make_root(
            self.catalog, Digests(maybeDeferred), Indexes(maybeDeferred), self.downloads, version
        )
        root.putChild(b"metrics", FunctionResource(self.metrics.reply))
        self.site = BoundedSite(Clock(), root)
        self.site.request_observers.append(self.metrics.request_ended)
        self.site.refusal_observers.append(self.metrics.refused)
        self.root = root

    def ask(
        self,
        path: str,
        *headers: str,
        method: str = "GET",
        room: int | None = None,
        peer: IAddress = _here,
    ) -> Connection:
        connection = Connection(self.root, self.site, peer)
        connection.transport.room = room
        connection.send(method, path, *headers)
        return connection

    def series(self) -> dict[tuple[str, ...], float]:
        """All series: the name, and the values of the labels in the order of the labels' names."""
        response = self.ask("/metrics").response()
        self.assertEqual(
            response.headers["Content-Type"], "text/plain; version=0.0.4; charset=utf-8"
        )
        return {
            (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
            for family in text_string_to_metric_families(response.text)
            for sample in family.samples
        }

    def test_private(self) -> None:
        """Only this machine and the named networks may read the metrics."""

        def status(peer: IAddress, *headers: str) -> int:
            return self.ask("/metrics", *headers, peer=peer).response().status

        for host in ("127.0.0.1", "127.9.9.9", "172.18.0.5"):
            self.assertEqual(status(IPv4Address("TCP", host, 1)), 200)
            self.assertEqual(status(IPv6Address("TCP", f"::ffff:{host}", 1)), 200)
        self.assertEqual(status(IPv6Address("TCP", "::1", 1)), 200)
        self.assertEqual(status(UNIXAddress("")), 200)
        for host in ("192.0.2.7", "172.19.0.1", "0.0.0.0"):
            self.assertEqual(status(IPv4Address("TCP", host, 1)), 403)
        self.assertEqual(status(IPv6Address("TCP", "fe80::1%eth0", 1)), 403)
        refusal = self.ask("/metrics", peer=IPv4Address("TCP", "192.0.2.7", 1)).response()
        self.assertIn("--metrics-from", refusal.text)
        self.assertNotIn("opq_", refusal.text)

    def test_private_behind_a_proxy(self) -> None:
        """A proxy on this machine does not open the metrics to its clients."""
        for peer in (_here, UNIXAddress("")):
            for header, expected in {
                "X-Forwarded-For: 127.0.0.1": 200,
                "X-Forwarded-For: ::1, 172.18.0.5": 200,
                "X-Forwarded-For: 192.0.2.7": 403,
                "X-Forwarded-For: 127.0.0.1, 192.0.2.7": 403,
                "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-For: 192.0.2.7": 403,
                "X-Forwarded-For: unknown": 403,
                "X-Forwarded-For: \xff": 403,
                "X-Forwarded-For:": 403,
                "Forwarded: for=192.0.2.7": 403,
            }.items():
                response = self.ask("/metrics", header, peer=peer).response()
                self.assertEqual(response.status, expected, header)

    def test_requests(self) -> None:
        """Requests are counted by endpoint and status; unknown paths share one series."""
        for path in ("/version", "/version", "/latest", "/nothing", "/a", "/update/x", "/", "/ls"):
            self.ask(path)
        for path in ("/tuf/1.root.json", "/tuf/x", "/tuf"):
            self.ask(path)
        self.ask(f"/update/{name_of(1)}", "Range: bytes=0-0")
        self.ask(f"/update/{name_of(1)}.pieces")
        self.ask("/version", method="DELETE")
        series = self.series()
        requests = {
            key[1:]: value for key, value in series.items() if key[0] == "opq_requests_total"
        }
        self.assertEqual(
            requests,
            {
                ("/version", "200"): 2,
                ("/version", "405"): 1,
                ("/latest", "303"): 1,
                ("other", "404"): 3,
                ("/tuf", "404"): 2,
                ("/update", "404"): 1,
                ("/update", "206"): 1,
                ("/update/NAME.pieces", "404"): 1,
                ("/", "200"): 1,
                ("/ls", "200"): 1,
            },
        )

    def test_refused(self) -> None:
        """Malformed requests are counted by status."""
        Connection(self.root, self.site).channel.dataReceived(b"GET /" + b"a" * 20_000)
        self.assertEqual(self.series()["opq_requests_total", "refused", "414"], 1)

    def test_waiting(self) -> None:
        """Waiting boxes are counted, but not those that went away."""
        waiting = self.ask("/version", f'If-None-Match: "{BUILT}"', "Prefer: wait=9")
        self.assertEqual(self.series()["opq_waiting_boxes",], 1)
        waiting.lose()
        series = self.series()
        self.assertEqual(series["opq_waiting_boxes",], 0)
        self.assertEqual(series["opq_requests_total", "/version", "499"], 1)

    def test_downloads(self) -> None:
        """Downloads under way and ended, by release; rejected ones, and bytes."""
        make_large_archive(self.directory / name_of(2), 200_000)
        self.catalog.rescan()
        path = f"/update/{name_of(2)}"
        under_way = self.ask(path, room=100_000)
        self.ask(path)
        series = self.series()
        self.assertEqual(series["opq_downloads_in_progress", "2"], 1)
        self.assertEqual(series["opq_downloads_turned_away_total",], 1)
        under_way.transport.drain()
        self.ask(path, room=100_000).lose()
        series = self.series()
        self.assertNotIn(("opq_downloads_in_progress", "2"), series)
        self.assertEqual(series["opq_downloads_total", "complete", "2"], 1)
        self.assertEqual(series["opq_downloads_total", "cut", "2"], 1)
        size = (self.directory / name_of(2)).stat().st_size
        self.assertGreater(series["opq_sent_bytes_total",], size)

    def test_withdrawn(self) -> None:
        """A release that is no longer on offer has no series."""
        self.ask(f"/update/{name_of(1)}")
        self.assertIn(("opq_downloads_total", "complete", "1"), self.series())
        (self.directory / name_of(1)).unlink()
        self.catalog.rescan()
        self.assertNotIn(("opq_downloads_total", "complete", "1"), self.series())

    def test_index(self) -> None:
        """The number of archives, the newest version and its age, and the last change."""
        series = self.series()
        self.assertEqual(series["opq_archives",], 2)
        self.assertEqual(series["opq_newest_version",], BUILT)
        age = series["opq_newest_release_age_seconds",]
        self.assertLess(abs(time.time() - BUILT - age), 60)
        self.assertEqual(series["opq_index_changed_timestamp_seconds",], self.catalog.changed)
        self.assertEqual(series["opq_directory_readable",], 1)
        self.assertEqual(series["opq_rescans_total", "start"], 1)
        self.assertEqual(series["opq_event_queue_overflows_total",], 0)

    def test_directory_gone(self) -> None:
        """Whether the directory can be read."""
        shutil.rmtree(self.directory)
        self.catalog.rescan()
        self.assertEqual(self.series()["opq_directory_readable",], 0)

    def test_nothing_on_offer(self) -> None:
        """Without an archive, there are no series of the newest one."""
        for name in os.listdir(self.directory):
            (self.directory / name).unlink()
        self.catalog.rescan()
        series = self.series()
        self.assertEqual(series["opq_archives",], 0)
        self.assertNotIn(("opq_newest_version",), series)

    def look_at_metadata(self) -> None:
        self.timestamper.startService()
        self.addCleanup(self.timestamper.stopService)
        self.reactor.advance(0)

    def test_metadata(self) -> None:
        """Versions and days left of each role; whether the timestamp is kept fresh."""
        self.signed.init().publish(3, days=20)
        self.look_at_metadata()
        series = {
            " ".join(key): value
            for key, value in self.series().items()
            if key[0].startswith("opq_tuf")
        }
        version = series.pop("opq_tuf_version timestamp")
        self.assertEqual(version, int(self.signed.now))
        rounded = {name: round(value, 2) for name, value in series.items()}
        self.assertEqual(
            rounded,
            {
                "opq_tuf_days_left root": 365,
                "opq_tuf_days_left snapshot": 20,
                "opq_tuf_days_left targets": 20,
                "opq_tuf_days_left timestamp": 7,
                "opq_tuf_version root": 1,
                "opq_tuf_version snapshot": 3,
                "opq_tuf_version targets": 3,
                "opq_tuf_timestamp_problem": 0,
                "opq_tuf_timestamps_signed_total": 1,
            },
        )

    def test_metadata_that_waits(self) -> None:
        """A snapshot that is not announced is a problem."""
        self.signed.init().snapshot(1, 1)
        self.look_at_metadata()
        series = self.series()
        self.assertEqual(series["opq_tuf_timestamp_problem",], 1)
        self.assertEqual(series["opq_tuf_timestamps_signed_total",], 0)
        self.assertNotIn(("opq_tuf_days_left", "timestamp"), series)

    def test_metadata_not_checked_yet(self) -> None:
        """Before the metadata is read, it has no series."""
        self.assertEqual([name for name in self.series() if name[0].startswith("opq_tuf")], [])

    def test_process(self) -> None:
        """The process has series for descriptors, memory and time."""
        series = self.series()
        for name in ("process_open_fds", "process_resident_memory_bytes"):
            self.assertGreater(series[name,], 0)

    def add_the_fleet(self) -> None:
        """Let the server have a fleet."""
        inbox = Inbox(self.reactor, lambda _: Deferred(), lambda store, batch: [])
        reports = ReportResource(self.reactor, inbox, time.time, ())
        agent, receiver = make_agent(self.reactor), Receiver("http://x/", None)
        poster = Poster(self.reactor, agent, receiver, time.time)
        fleet = FleetMetrics(
            *(self.reactor, reports, inbox, lambda _: Deferred(), Judge(mode="auto"), time.time),
            Sender(self.reactor, lambda _: Deferred(), poster, time.time),
        )
        self.metrics.registry.register(fleet)

    def all_names(self) -> set[str]:
        """Return the names of all metrics."""
        self.add_the_fleet()
        self.signed.init().publish(3, days=20)
        self.look_at_metadata()
        return set(re.findall("^# TYPE ([^ ]+)", self.ask("/metrics").response().text, re.M))

    def test_documented(self) -> None:
        """The documentation has a row for each metric, and for no other."""
        text = (PROJECT / "docs" / "operating-a-server.md").read_text()
        documented = set(
            re.findall(r"^\| `(opq_[a-z_]+)", text.partition("\n## Metrics\n")[2], re.M)
        )
        names = {name for name in self.all_names() if name.startswith("opq_")}
        # The client library adds it to each histogram.
        names.remove("opq_reports_batch_seconds_created")
        self.assertEqual(documented, names)

    def test_alerts_and_dashboard(self) -> None:
        """The alert rules and the dashboard use only metrics that there are."""
        names = self.all_names()
        for file in ("alerts.yaml", "dashboard.json"):
            text = (PROJECT / "deploy" / "server" / "monitoring" / file).read_text()
            used = set(re.findall(r"\b(?:opq|process)_[a-z_]+", text))
            self.assertGreater(len(used), 5)
            self.assertEqual(used - names, set(), file)
