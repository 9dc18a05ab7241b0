"""Makes the site that `opq-fleet` talks to."""

from pathlib import Path
from typing import Any

from opq_twisted.fleet.control.changes import Changes
from opq_twisted.fleet.control.listener import SocketListener
from opq_twisted.fleet.control.queries import Queries
from opq_twisted.fleet.control.resources import ChangeResource, QueryResource
from opq_twisted.fleet.store.database import Database
from opq_twisted.http.connection_limits import ConnectionLimits
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource
from opq_twisted.http.site import BoundedSite

#: Simultaneous connections: far more than there are operators.
_CONNECTIONS = 50


class ControlRequest(BoundedRequest):
    """A request of a user of this machine, which may admit many keys at once."""

    max_body = 1024 * 1024


def make_root(database: Database, queries: Queries, changes: Changes) -> PlainResource:
    """Make the resource tree."""
    root = PlainResource()
    for path, query in queries.by_path().items():
        root.putChild(path, QueryResource(database, query))
    for path, change in (
        (b"hold", changes.hold),
        (b"resume", changes.resume),
        (b"widen", changes.widen),
    ):
        root.putChild(path, ChangeResource(database, change, changes.sign_pace))
    for path, change in (
        (b"admit", changes.admit),
        (b"distrust", changes.distrust),
        (b"forget", changes.forget),
    ):
        root.putChild(path, ChangeResource(database, change))
    return root


def make_control(reactor: Any, path: Path, root: PlainResource) -> SocketListener:
    """
    Make the service that listens on the socket.

    :raises CannotStart: if the path is too long.
    """
    site = BoundedSite(reactor, root, ConnectionLimits(_CONNECTIONS, _CONNECTIONS))
    site.requestFactory = ControlRequest
    return SocketListener(reactor, path, site)
