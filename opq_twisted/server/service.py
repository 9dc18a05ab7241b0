"""Wires the update server together."""

import math
import re
from collections.abc import Callable
from pathlib import Path

from twisted.application.service import IService, MultiService
from twisted.internet import reactor
from twisted.python import usage

from opq_twisted.errors import CannotStart
from opq_twisted.http.listener import Listener
from opq_twisted.http.site import BoundedSite
from opq_twisted.server.access_log import AccessLog
from opq_twisted.server.catalog import Catalog, check_readable
from opq_twisted.server.descriptors import make_room
from opq_twisted.server.digests import Digests
from opq_twisted.server.downloads import Downloads
from opq_twisted.server.metrics import Metrics, MetricsResource
from opq_twisted.server.resources import Version, tree
from opq_twisted.server.watcher import HEARTBEAT, Watcher
from opq_twisted.timers import use_monotonic_time

_URL = re.compile(
    r"https?://(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:[0-9]{1,5})?(/([\w.~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*)?",
    re.ASCII,
)


def _number(
    option: str, read: Callable[[str], float], least: float, most: float
) -> Callable[[str], float]:
    """Make the reader of an option's value, which must be a number within bounds."""

    def coerce(text: str) -> float:
        try:
            number = read(text)
        except ValueError:
            number = math.nan
        if not least <= number <= most:
            raise ValueError(f"--{option} {text}: give a number from {least} to {most}.")
        return number

    return coerce


def _mirror(text: str) -> str:
    if not _URL.fullmatch(text):
        raise ValueError(f"--mirror {text}: give a URL such as https://mirror.example.org/opq.")
    return text.rstrip("/")


class Options(usage.Options):
    """The command line of `twistd opq-update-server`."""

    synopsis = "[options]"
    longdesc = "Serve the opq-box-update-VERSION.tar.bz2 files of a directory to OPQ boxes."
    optParameters = (
        ["port", "p", "8151", "TCP port, or a Twisted endpoint description"],
        ["updates-dir", "d", "/var/opq/box-updates", "Directory that holds the updates"],
        [
            *("heartbeat", None, HEARTBEAT, "Seconds between two looks at the directory"),
            _number("heartbeat", float, 0.1, 86400),
        ],
        ["mirror", None, None, "URL whose update/NAME boxes are sent to for archives", _mirror],
        [
            *("max-downloads", None, 2000, "Downloads at once"),
            _number("max-downloads", int, 1, 1_000_000),
        ],
        [
            *("max-connections", None, 15000, "Connections at once"),
            _number("max-connections", int, 1, 1_000_000),
        ],
        ["access-log", None, None, "File for the access log, instead of standard output"],
    )
    optFlags = (["no-access-log", None, "Write no access log"],)


def makeService(options: Options) -> IService:
    """
    Make the server's service.

    :raises CannotStart: when the directory is missing or cannot be read, when the port is none, or
        when the access log cannot be written.
    """
    use_monotonic_time(reactor)
    directory = Path(options["updates-dir"]).absolute()
    _require_readable(directory)
    catalog, digests = Catalog(directory), Digests()
    catalog.observers.append(digests.catalog_changed)
    most_connections, most_downloads = make_room(
        options["max-connections"], options["max-downloads"]
    )
    downloads = Downloads(most_downloads)
    watcher = Watcher(reactor, catalog, options["heartbeat"])
    version = Version(reactor, catalog)
    metrics = Metrics(catalog, watcher, downloads, version.waiting)
    root = tree(catalog, digests, downloads, version, options["mirror"])
    root.putChild(b"metrics", MetricsResource(metrics))
    site = BoundedSite(reactor, root, most_connections)
    site.request_observers.append(metrics.request_ended)
    site.refusal_observers.append(metrics.refused)
    server = MultiService()
    for service in (Listener(options["port"], site), watcher, digests):
        service.setServiceParent(server)
    if not options["no-access-log"]:
        access_log = AccessLog(reactor, options["access-log"] and Path(options["access-log"]))
        site.request_observers.append(access_log.request_ended)
        access_log.setServiceParent(server)
    return server


def _require_readable(directory: Path) -> None:
    try:
        check_readable(directory)
    except OSError as error:
        raise CannotStart(
            f"Cannot read the updates directory {directory}: {error.strerror}. "
            "Create it, or name another with --updates-dir."
        ) from None
