"""The resources behind the fleet's socket, on a database of a test, without a socket."""

import json
import socket
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection
from twisted.internet.defer import Deferred, execute

from opq_twisted.fleet.control.changes import Changes
from opq_twisted.fleet.control.queries import Queries
from opq_twisted.fleet.control.site import ControlRequest, make_root
from opq_twisted.fleet.engine.judge import Judge
from opq_twisted.fleet.settings import Rollouts
from opq_twisted.fleet.store.database import Database
from opq_twisted.fleet.store.errors import StoreUnavailable
from opq_twisted.http.site import BoundedSite
from tests.helpers import http_exchange
from tests.helpers.fleet_rows import NOW
from tests.helpers.http_exchange import ReactorClock, Response, Transport

_T = TypeVar("_T")


class DatabaseInPlace:
    """Runs functions on a database at once, or not at all while it is away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.is_away = False

    def read(self, query: Callable[[Connection], _T]) -> "Deferred[_T]":
        """Read in this thread."""
        return execute(self._run, self._database.read_now, query)

    def write(self, change: Callable[[Connection], _T]) -> "Deferred[_T]":
        """Write in this thread."""
        return execute(self._run, self._database.write_now, change)

    def _run(self, run: Callable[..., _T], function: Callable[[Connection], _T]) -> _T:
        if self.is_away:
            raise StoreUnavailable("The database of the fleet cannot be used: the disk is full.")
        return run(function)


class UnixTransport(Transport):
    """The server's end of a Unix socket, whose other end this process has."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = socket.socketpair()

    def getHandle(self) -> socket.socket:
        """Return the socket."""
        return self.pair[0]


class Control:
    """Asks the resources, as `opq-fleet` does."""

    def __init__(self, database: Database, mode: Rollouts = "off") -> None:
        self.database = DatabaseInPlace(database)
        #: Whether this process signs timestamps, and how often it was told of a new pace.
        self.signs, self.changed = True, 0
        self._root = make_root(
            self.database,  # type: ignore[arg-type]
            Queries(lambda: NOW, lambda: 3, Judge(mode=mode)),
            Changes(lambda: NOW, self._pace_changed),
        )

    def _pace_changed(self) -> bool:
        self.changed += 1
        return self.signs

    def get(self, path: str) -> Any:
        """Ask for something; returns the JSON."""
        return json.loads(self.exchange("GET", path).body)

    def post(self, path: str, **content: Any) -> Any:
        """Change something; returns the JSON."""
        response = self.exchange("POST", path, json.dumps(content).encode())
        return {"code": response.status, **json.loads(response.body)}

    def exchange(self, method: str, path: str, body: bytes = b"") -> Response:
        """Send a request of any kind."""
        site = BoundedSite(ReactorClock(), self._root)
        site.requestFactory = ControlRequest
        connection = http_exchange.Connection(self._root, site)
        transport = UnixTransport()
        connection.channel.transport = transport
        connection.transport = transport
        transport.protocol = connection.channel
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.channel.dataReceived(head.encode() + body)
        for each in transport.pair:
            each.close()
        return connection.response(method)
