"""The server's metrics for Prometheus."""

import time
from collections.abc import Iterator, Sequence, Sized
from ipaddress import ip_network

from attrs import define, field
from prometheus_client import CollectorRegistry, Counter, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector
from twisted.web.http import FORBIDDEN, OK

from opq_twisted.http.connection_limits import Network, parse_address
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.site import CLIENT_GONE
from opq_twisted.server.catalog.snapshot import Catalog
from opq_twisted.server.catalog.watcher import Watcher
from opq_twisted.server.limits import Downloads
from opq_twisted.server.timestamp.service import Timestamper
from opq_twisted.server.web.index import SUFFIX
from opq_twisted.trust.expiry import days_left

#: The endpoints by path. Unknown paths have one common series: clients could invent any number.
_ENDPOINTS = {
    path.encode(): path for path in ("/", "/ls", "/version", "/latest", "/metrics", "/report")
}
_FOLDERS = (b"/update/", "/update"), (b"/tuf/", "/tuf")
_INDEXES = "/update/NAME.pieces"

#: The addresses of this machine itself.
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1"))

_PRIVATE = Reply.sentence(
    FORBIDDEN,
    "Only the server's own machine may read the metrics, and not through a proxy. "
    "Name another reader's address with --metrics-from.",
)


@define(eq=False)
class Metrics(Collector):
    """
    Counts requests when they end, and collects all other values when `/metrics` is requested.

    A series for a release exists while the release is on offer.
    """

    _catalog: Catalog
    _watcher: Watcher
    _downloads: Downloads
    _long_pollers: Sized
    _timestamper: Timestamper
    #: Networks whose clients may read the metrics.
    _readers: Sequence[Network] = LOOPBACK
    registry: CollectorRegistry = field(init=False, factory=CollectorRegistry)
    _requests: Counter = field(init=False)
    _by_path: dict[tuple[str, int], Counter] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self._requests = Counter(
            "opq_requests", "Requests answered.", ["endpoint", "status"], registry=self.registry
        )
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def request_ended(self, request: BoundedRequest, _whole: bool) -> None:
        """Count a request."""
        endpoint = _ENDPOINTS.get(request.path)
        if endpoint is None:
            folders = (name for start, name in _FOLDERS if request.path.startswith(start))
            endpoint = next(folders, "other")
            if endpoint == "/update" and request.path.endswith(SUFFIX.encode()):
                endpoint = _INDEXES
        self._count(endpoint, request.code if request.startedWriting else CLIENT_GONE)

    def refused(self, status: int) -> None:
        """Count a malformed request, or a connection that was reset."""
        self._count("refused", status)

    def _count(self, endpoint: str, status: int) -> None:
        counter = self._by_path.get((endpoint, status))
        if counter is None:
            counter = self._requests.labels(endpoint, status)
            self._by_path[endpoint, status] = counter
        counter.inc()

    def reply(self, request: BoundedRequest) -> Reply:
        """Reply to `/metrics` with all metrics in the text format of Prometheus, or with 403."""
        if not all(self._may_read(each) for each in _senders(request)):
            return _PRIVATE
        return Reply.of(OK, generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4.encode())

    def _may_read(self, host: str) -> bool:
        try:
            address = parse_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._readers)

    def collect(self) -> Iterator[Metric]:
        """Collect the values from the parts of the server."""
        snapshot, now = self._catalog.snapshot, time.time()
        yield GaugeMetricFamily("opq_archives", "Archives on offer.", len(snapshot.archives))
        yield GaugeMetricFamily(
            "opq_directory_readable",
            "1 while the updates directory can be read.",
            int(self._catalog.problem is None),
        )
        if self._catalog.changed is not None:
            yield GaugeMetricFamily(
                "opq_index_changed_timestamp_seconds",
                "Time of the last change of the archives on offer.",
                self._catalog.changed,
            )
        if snapshot.newest is not None:
            version = snapshot.newest.name.version
            yield GaugeMetricFamily("opq_newest_version", "The newest version on offer.", version)
            yield GaugeMetricFamily(
                "opq_newest_release_age_seconds",
                "Time since the newest release was built, according to its version.",
                now - version,
            )
        yield GaugeMetricFamily(
            "opq_waiting_boxes", "Boxes that wait for another version.", len(self._long_pollers)
        )
        yield CounterMetricFamily(
            "opq_event_queue_overflows",
            "How often the kernel lost events of the updates directory.",
            self._watcher.overflows,
        )
        rescans = CounterMetricFamily(
            "opq_rescans", "How often the whole directory was read.", labels=["reason"]
        )
        for reason, count in self._watcher.rescans.items():
            rescans.add_metric([reason], count)
        yield rescans
        yield from self._collect_downloads({each.name.version for each in snapshot.archives})
        yield from self._collect_metadata()

    def _collect_downloads(self, offered: set[int]) -> Iterator[Metric]:
        downloads = self._downloads
        yield CounterMetricFamily("opq_sent_bytes", "Bytes of archives sent.", downloads.bytes_sent)
        yield CounterMetricFamily(
            "opq_downloads_turned_away", "Downloads that were rejected for now.", downloads.rejected
        )
        under_way = GaugeMetricFamily(
            "opq_downloads_in_progress", "Downloads under way.", labels=["release"]
        )
        for version, count in downloads.under_way.items():
            under_way.add_metric([str(version)], count)
        yield under_way
        ended = CounterMetricFamily(
            "opq_downloads", "Downloads ended.", labels=["release", "outcome"]
        )
        for outcome, counts in (("complete", downloads.completed), ("cut", downloads.cut)):
            for version, count in counts.items():
                if version in offered:
                    ended.add_metric([str(version), outcome], count)
        yield ended

    def _collect_metadata(self) -> Iterator[Metric]:
        timestamper = self._timestamper
        metadata_state, now = timestamper.metadata_state, timestamper.now()
        if not (metadata_state.present or timestamper.problem):
            return
        days = GaugeMetricFamily(
            "opq_tuf_days_left", "Days until the signed metadata expires.", labels=["role"]
        )
        version = GaugeMetricFamily(
            "opq_tuf_version", "The version of the signed metadata.", labels=["role"]
        )
        for role, document in metadata_state.documents.items():
            days.add_metric([role], days_left(document.signed, now))
            version.add_metric([role], document.signed.version)
        yield days
        yield version
        yield GaugeMetricFamily(
            "opq_tuf_timestamp_problem",
            "1 while the timestamp cannot be kept fresh, a snapshot waits, or a pace is not known.",
            int(timestamper.problem),
        )
        yield CounterMetricFamily(
            "opq_tuf_timestamps_signed", "Timestamps signed by this server.", timestamper.signed
        )


def _senders(request: BoundedRequest) -> Iterator[str]:
    """
    Yield the addresses of all machines through which a request came.

    A reverse proxy on this machine has a loopback address, but speaks for others. The client of a
    UNIX socket is on this machine, and has no address.
    """
    host = getattr(request.channel.transport.getPeer(), "host", None)
    if host is not None:
        yield host
    for header in (b"X-Forwarded-For", b"Forwarded"):
        for value in request.requestHeaders.getRawHeaders(header, ()):
            yield from (each.strip() for each in value.decode("ascii", "replace").split(","))
