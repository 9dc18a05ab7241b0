"""Wires the update server together."""

import os
from pathlib import Path

from twisted.application.service import IService, MultiService
from twisted.internet import reactor
from twisted.python import usage

from opq_twisted.errors import CannotStart
from opq_twisted.server.catalog import Catalog
from opq_twisted.server.digests import Digests
from opq_twisted.server.resources import tree
from opq_twisted.server.watcher import Watcher
from opq_twisted.timers import use_monotonic_time
from opq_twisted.webserver import Listener


class Options(usage.Options):
    """The command line of `twistd opq-update-server`."""

    synopsis = "[options]"
    longdesc = "Serve the opq-box-update-VERSION.tar.bz2 files of a directory to OPQ boxes."
    optParameters = (
        ["port", "p", "8151", "TCP port, or a Twisted endpoint description"],
        ["updates-dir", "d", "/var/opq/box-updates", "Directory that holds the updates"],
    )


def makeService(options: Options) -> IService:
    """
    Make the server's service.

    :raises CannotStart: when the directory is missing or cannot be read.
    """
    use_monotonic_time(reactor)
    directory = Path(options["updates-dir"]).absolute()
    _require_readable(directory)
    catalog = Catalog(directory)
    digests = Digests()
    catalog.observers.append(digests.catalog_changed)
    server = MultiService()
    for service in (
        Listener(options["port"], tree(catalog, digests)),
        Watcher(reactor, catalog),
        digests,
    ):
        service.setServiceParent(server)
    return server


def _require_readable(directory: Path) -> None:
    try:
        os.scandir(directory).close()
    except OSError as error:
        raise CannotStart(
            f"Cannot read the updates directory {directory}: {error.strerror}. "
            "Create it, or name another with --updates-dir."
        ) from None
