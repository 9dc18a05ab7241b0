"""The HTTP resources for `opq-fleet`, and their site on a Unix socket."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from opq_twisted.fleet.audit import AuditNote
from opq_twisted.fleet.control.answers import Content, answer_in_json
from opq_twisted.fleet.control.changes import Changes, MakeChange
from opq_twisted.fleet.control.fields import Fields
from opq_twisted.fleet.control.listener import SocketListener
from opq_twisted.fleet.control.peer import uid_of, user_name
from opq_twisted.fleet.control.queries import MakeQuery, Queries
from opq_twisted.fleet.store.database import Database
from opq_twisted.http.connection_limits import ConnectionLimits
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource
from opq_twisted.http.site import BoundedSite

#: The limit of simultaneous connections: far more than there are operators.
_CONNECTIONS = 50


class ControlRequest(BoundedRequest):
    """A request of a user of this machine, which may admit many keys at once."""

    max_body = 1024 * 1024


class QueryResource(PlainResource):
    """Answers GET from the database."""

    def __init__(self, database: Database, make_query: MakeQuery) -> None:
        super().__init__()
        self._database = database
        self._make_query = make_query

    def render_GET(self, request: BoundedRequest) -> int:
        """Answer after the database has answered."""
        return answer_in_json(request, self._read(request))

    async def _read(self, request: BoundedRequest) -> Content:
        return await self._database.read(self._make_query(Fields.of_query(request)))


class ChangeResource(PlainResource):
    """Changes the database by POST; the audit gets the name of the user who has connected."""

    def __init__(
        self,
        database: Database,
        make_change: MakeChange,
        after_commit: Callable[[Content], Content] = lambda content: content,
    ) -> None:
        """:param after_commit: called with the result of the change; returns the answer."""
        super().__init__()
        self._database = database
        self._make_change = make_change
        self._after_commit = after_commit

    def render_POST(self, request: BoundedRequest) -> int:
        """Answer after the change is committed."""
        return answer_in_json(request, self._write(request))

    async def _write(self, request: BoundedRequest) -> Content:
        fields, uid = Fields.of_body(request), uid_of(request.channel.transport)
        change, because = self._make_change(fields), fields.text("because")
        # Not in the thread that writes: a directory server may answer slowly, and reports must be
        # stored meanwhile.
        who = await self._database.read(lambda _: user_name(uid))
        note = AuditNote(who=who, because=because)
        return self._after_commit(
            await self._database.write(lambda connection: change(connection, note))
        )


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
