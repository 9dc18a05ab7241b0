"""Wires the update server together."""

import math
import os
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

from securesystemslib.signer import Signer
from twisted.application.service import IService, MultiService
from twisted.internet import reactor
from twisted.logger import Logger

from opq_twisted.common.daemon_options import DaemonOptions
from opq_twisted.common.errors import CannotStart, KeyUnusable
from opq_twisted.common.monotonic import use_monotonic_time
from opq_twisted.common.sd_notify import ReadinessService, take_service_manager
from opq_twisted.common.sighup import SighupHandler
from opq_twisted.http.connection_limits import Network
from opq_twisted.http.listener import Listener
from opq_twisted.http.resource import FunctionResource
from opq_twisted.http.site import BoundedSite
from opq_twisted.server.access_log import AccessLog
from opq_twisted.server.announcement import Announcement
from opq_twisted.server.catalog.digests import Digests
from opq_twisted.server.catalog.indexes import Indexes
from opq_twisted.server.catalog.snapshot import Catalog, check_readable
from opq_twisted.server.catalog.watcher import HEARTBEAT, Watcher
from opq_twisted.server.fleet_options import FLEET_PARAMETERS, make_fleet
from opq_twisted.server.limits import Downloads, make_room
from opq_twisted.server.metrics import LOOPBACK, Metrics
from opq_twisted.server.timestamp.service import Timestamper
from opq_twisted.server.web.long_poll import NewestVersion
from opq_twisted.server.web.resources import make_root
from opq_twisted.server.web_url import is_web_url
from opq_twisted.trust import keys
from opq_twisted.trust.passphrase import read_passphrase, warning_about_access

_log = Logger()


def _number(
    option: str, read: Callable[[str], float], minimum: float, maximum: float
) -> Callable[[str], float]:
    """Make the function that converts an option's value to a number between two limits."""

    def coerce(text: str) -> float:
        try:
            number = read(text)
        except ValueError:
            number = math.nan
        if not minimum <= number <= maximum:
            raise ValueError(f"--{option} {text}: give a number from {minimum} to {maximum}.")
        return number

    return coerce


def _mirror(text: str) -> str:
    """Check the URL of a mirror: boxes must be able to follow it."""
    if not is_web_url(text):
        # The message does not quote the URL: it may contain a password.
        raise ValueError(
            "--mirror: give a URL such as https://mirror.example.org/opq, with a valid name and "
            "port, and without a user name, a password, a query (?) or a fragment (#)."
        )
    return text.rstrip("/")


def _networks(option: str) -> Callable[[str], tuple[Network, ...]]:
    """Make the function that converts an option's value to networks."""

    def coerce(text: str) -> tuple[Network, ...]:
        try:
            return tuple(ip_network(each.strip()) for each in text.split(",") if each.strip())
        except ValueError as error:
            raise ValueError(
                f"--{option} {text}: {error}. Give addresses or networks such as "
                "192.0.2.7,2001:db8::/32."
            ) from None

    return coerce


class Options(DaemonOptions):
    """The command line of `opq-update-server`."""

    program = "opq-update-server"
    longdesc = "Serve the opq-box-update-VERSION.tar.bz2 files of a directory to OPQ boxes."
    optParameters = (
        ["port", "p", "8151", "TCP port, or a Twisted endpoint description"],
        ["updates-dir", "d", "/var/opq/box-updates", "Directory that holds the updates"],
        [
            *("heartbeat", None, HEARTBEAT, "Seconds between two scans of the directory"),
            _number("heartbeat", float, 0.1, 86400),
        ],
        ["mirror", None, None, "Redirect boxes to update/NAME at this URL for archives", _mirror],
        [
            *("max-downloads", None, 2000, "Simultaneous downloads"),
            _number("max-downloads", int, 1, 1_000_000),
        ],
        [
            *("max-connections", None, 15000, "Simultaneous connections"),
            _number("max-connections", int, 1, 1_000_000),
        ],
        [
            *(
                "trusted-proxies",
                None,
                None,
                "Addresses or networks of reverse proxies, with commas",
            ),
            _networks("trusted-proxies"),
        ],
        [
            *("metrics-from", None, None),
            "Addresses or networks that may read /metrics, with commas, besides this machine",
            _networks("metrics-from"),
        ],
        ["access-log", None, None, "File for the access log, instead of standard output"],
        ["timestamp-key", None, None, "File of the private key that signs tuf/timestamp.json"],
        [
            *("timestamp-passphrase-file", None, None),
            "File with its passphrase; by default OPQ_TIMESTAMP_PASSPHRASE in the environment",
        ],
        *FLEET_PARAMETERS,
    )
    optFlags = (["no-access-log", None, "Write no access log"],)


def makeService(options: Options) -> IService:
    """
    Make the server's service.

    :raises CannotStart: if the directory is missing or cannot be read, the port is invalid, the
        access log cannot be written, the timestamp's key cannot be used, or the options of the
        fleet do not fit together.
    """
    use_monotonic_time(reactor)
    directory = Path(options["updates-dir"]).absolute()
    _require_readable(directory)
    catalog, digests, indexes = Catalog(directory), Digests(), Indexes()
    catalog.observers += [digests.catalog_changed, indexes.catalog_changed]
    limits, most_downloads = make_room(
        options["max-connections"],
        options["max-downloads"],
        # A reverse proxy on this machine speaks for all boxes.
        (*LOOPBACK, *(options["trusted-proxies"] or ())),
    )
    downloads = Downloads(most_downloads)
    watcher = Watcher(reactor, catalog, options["heartbeat"])
    version = NewestVersion(reactor, catalog, await_metadata=True)
    fleet = make_fleet(options, limits, version.long_pollers)
    signer = _signer(options)
    timestamper = Timestamper(
        reactor,
        catalog,
        signer,
        options["heartbeat"],
        pace=None if fleet is None else fleet.paces,
    )
    if fleet is not None and signer is not None:
        fleet.pace_observers.append(timestamper.check_soon)
        fleet.metadata_problem = lambda: timestamper.reason_not_to_widen
    elif fleet is not None and options["rollouts"] != "off":
        _log.info(
            "--rollouts {mode}: this server has no --timestamp-key, so another one with the key "
            "has to use the same database. Without it there are no rollouts.",
            mode=options["rollouts"],
        )
    catalog.observers.append(timestamper.catalog_changed)
    watcher.observers.append(timestamper.directory_touched)
    timestamper.observers.append(version.metadata_changed)
    metrics = Metrics(
        catalog,
        watcher,
        downloads,
        version.long_pollers,
        timestamper,
        readers=(*LOOPBACK, *(options["metrics-from"] or ())),
    )
    root = make_root(
        catalog,
        digests,
        indexes,
        downloads,
        version,
        options["mirror"],
        lambda: timestamper.metadata_state,
    )
    root.putChild(b"metrics", FunctionResource(metrics.reply))
    server = MultiService()
    if fleet is not None:
        root.putChild(b"report", fleet.reports)
        metrics.registry.register(fleet.metrics)
        # The threads of the database start before the first report can come.
        fleet.setServiceParent(server)
    site = BoundedSite(reactor, root, limits)
    site.request_observers.append(metrics.request_ended)
    site.refusal_observers.append(metrics.refused)
    listener = Listener(options["port"], site)
    announcement = Announcement(lambda: listener.url, catalog, timestamper)
    for service in (listener, watcher, digests, indexes, timestamper, announcement):
        service.setServiceParent(server)
    if not options["no-access-log"]:
        access_log = AccessLog(reactor, options["access-log"] and Path(options["access-log"]))
        site.request_observers.append(access_log.request_ended)
        access_log.setServiceParent(server)
        SighupHandler(reactor, access_log.close).setServiceParent(server)
    else:
        SighupHandler(reactor).setServiceParent(server)
    # The last service reports that the server listens, and has read the directory.
    ReadinessService(take_service_manager(os.environ, os.getpid())).setServiceParent(server)
    return server


def _require_readable(directory: Path) -> None:
    try:
        check_readable(directory)
    except OSError as error:
        raise CannotStart(
            f"Cannot read the updates directory {directory}: {error.strerror}. "
            "Create it, or name another with --updates-dir."
        ) from None


def _signer(options: Options) -> Signer | None:
    """Open the timestamp's key, if the options name one."""
    if options["timestamp-key"] is None:
        if options["timestamp-passphrase-file"] is not None:
            raise CannotStart("--timestamp-passphrase-file is of no use without --timestamp-key.")
        return None
    path = Path(options["timestamp-key"])
    try:
        signer = keys.load(path, _passphrase(options))
        advice = keys.advice(path)
    except KeyUnusable as error:
        raise CannotStart(
            f"{error} Look at --timestamp-key and --timestamp-passphrase-file."
        ) from None
    if advice is not None:
        _log.warn("{advice}", advice=advice)
    return signer


def _passphrase(options: Options) -> bytes | None:
    if options["timestamp-passphrase-file"] is None:
        return os.environb.get(b"OPQ_TIMESTAMP_PASSPHRASE")
    path = Path(options["timestamp-passphrase-file"])
    sentence = warning_about_access(path)
    if sentence is not None:
        _log.warn("{sentence}", sentence=sentence)
    return read_passphrase(path)
