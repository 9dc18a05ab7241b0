"""Wires the update server together."""

import re
from pathlib import Path
from urllib.parse import urlsplit

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


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 86400:
        raise ValueError("give seconds, from 0.1 to 86400.")
    return seconds


def _count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 1_000_000:
        raise ValueError("give a number from 1 to 1000000.")
    return count


def _mirror(text: str) -> str:
    parts = urlsplit(text)
    plain = re.fullmatch(r"[!-~]+", text) and not (parts.query or parts.fragment)
    if not plain or parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("give a URL such as https://mirror.example.org/opq.")
    return text.rstrip("/")


class Options(usage.Options):
    """The command line of `twistd opq-update-server`."""

    synopsis = "[options]"
    longdesc = "Serve the opq-box-update-VERSION.tar.bz2 files of a directory to OPQ boxes."
    optParameters = (
        ["port", "p", "8151", "TCP port, or a Twisted endpoint description"],
        ["updates-dir", "d", "/var/opq/box-updates", "Directory that holds the updates"],
        ["heartbeat", None, HEARTBEAT, "Seconds between two looks at the directory", _seconds],
        ["mirror", None, None, "URL whose update/NAME boxes are sent to for archives", _mirror],
        ["max-downloads", None, 2000, "Downloads at once", _count],
        ["max-connections", None, 15000, "Connections at once", _count],
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
    downloads = Downloads(options["max-downloads"])
    watcher = Watcher(reactor, catalog, options["heartbeat"])
    version = Version(reactor, catalog)
    metrics = Metrics(catalog, watcher, downloads, version.waiting)
    root = tree(catalog, digests, downloads, version, options["mirror"])
    root.putChild(b"metrics", MetricsResource(metrics))
    room = make_room(options["max-connections"], options["max-downloads"])
    site = BoundedSite(reactor, root, room)
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
