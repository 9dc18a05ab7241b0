"""Makes the site that `opq-fleet` talks to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from opq_twisted.fleet.control.changes import Changes
from opq_twisted.fleet.control.listener import SocketListener
from opq_twisted.fleet.control.overview import Content
from opq_twisted.fleet.control.queries import Queries
from opq_twisted.fleet.control.resources import ChangeResource, QueryResource
from opq_twisted.fleet.engine.judge import Judge
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


def make_root(
    database: Database,
    now: Callable[[], float],
    waiting_now: Callable[[], int],
    pace_changed: Callable[[], bool],
    judge: Judge,
) -> PlainResource:
    """
    Make the resource tree.

    :param now: gives seconds since the epoch.
    :param waiting_now: counts the boxes that wait at this process for a release.
    :param pace_changed: called when an operator has changed a pace; returns whether this process
        signs a new timestamp then.
    :param judge: judges the rollouts.
    """
    root = PlainResource()
    changes = Changes(now)

    def of_the_pace(content: Content) -> Content:
        return {**content, "signs_here": pace_changed()}

    for path, query in Queries(now, waiting_now, judge).by_path().items():
        root.putChild(path, QueryResource(database, query))
    for path, change in (
        (b"hold", changes.hold),
        (b"resume", changes.resume),
        (b"widen", changes.widen),
    ):
        root.putChild(path, ChangeResource(database, change, of_the_pace))
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
