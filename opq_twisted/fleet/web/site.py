"""Makes the page of the fleet: its resources, and the service that listens."""

from collections.abc import Callable, Sequence
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.http import FORBIDDEN, OK
from twisted.web.resource import IResource

from opq_twisted.fleet.control.answers import Content
from opq_twisted.fleet.control.changes import Changes
from opq_twisted.fleet.control.fields import Fields
from opq_twisted.fleet.control.queries import Queries
from opq_twisted.fleet.engine.judge import Judge
from opq_twisted.fleet.settings import PageSettings
from opq_twisted.fleet.store.database import Database
from opq_twisted.fleet.web import pages
from opq_twisted.fleet.web.action_list import make_actions
from opq_twisted.fleet.web.actions import Action, ActionResource
from opq_twisted.fleet.web.authentication import Authentication
from opq_twisted.fleet.web.content import overview_content
from opq_twisted.fleet.web.current_overview import CurrentOverview
from opq_twisted.fleet.web.events import TOO_MANY, Events
from opq_twisted.fleet.web.notices import Notices
from opq_twisted.fleet.web.operators import Operator
from opq_twisted.fleet.web.operators_file import OperatorsFile
from opq_twisted.fleet.web.pages import Sources
from opq_twisted.fleet.web.resource import Guard, PageResource
from opq_twisted.fleet.web.views.assets import ASSETS, Asset
from opq_twisted.http.client_network import find_network
from opq_twisted.http.event_streams import EventStreams
from opq_twisted.http.guards.host_check import HostCheck
from opq_twisted.http.listener import Listener
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import FunctionResource
from opq_twisted.http.site import BoundedSite

#: The name of an asset changes with its content.
_ASSET_HEADERS = {
    b"Cache-Control": b"public, max-age=31536000, immutable",
    b"Content-Security-Policy": b"default-src 'none'",
    b"Cross-Origin-Resource-Policy": b"same-origin",
}


class FleetPage(MultiService):
    """Serves the page of the fleet on a port of its own."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: PageSettings,
        database: Database,
        judge: Judge,
        queries: Queries,
        changes: Changes,
        now: Callable[[], float],
    ) -> None:
        """
        Read the operators' file, and check the port.

        :param now: gives seconds since the epoch.
        :raises CannotStart: if the file or the port cannot be used.
        """
        super().__init__()
        operators = OperatorsFile(settings.operators)
        authentication = Authentication(reactor, operators)
        streams = EventStreams(reactor, TOO_MANY)
        # The operator who has opened a stream may have been removed.
        operators.observers.append(streams.close)

        def network(request: BoundedRequest) -> str | None:
            return find_network(request, settings.limits.trusted)

        async def identify(request: BoundedRequest) -> Operator | None:
            authorization = request.getHeader(b"Authorization")
            return await authentication.identify(authorization, network(request))

        def count() -> Deferred[Content]:
            status = queries.status(Fields({}))
            return database.read(
                lambda connection: overview_content(connection, status(connection), now(), judge)
            )

        self.current = current = CurrentOverview(reactor, count, lambda: len(streams) > 0)
        # The streams of removed operators have to end even if nobody requests a page.
        current.observers.append(lambda _: operators.operators())
        root = make_root(
            Guard(identify, now, network),
            Sources(database, queries, judge, current, Notices()),
            streams,
            make_actions(changes),
            HostCheck(settings.hosts),
        )
        self.site = BoundedSite(reactor, root, settings.limits)
        self._listener = Listener(settings.port, self.site, "--fleet-port")
        for each in (current, self._listener):
            each.setServiceParent(self)

    def startService(self) -> None:
        """Listen, and log the address."""
        super().startService()
        url = self._listener.url
        place = url if url.startswith("unix:") else f"{url}/fleet"
        self._log.info("The page of the fleet is at {place}", place=place)


def make_root(
    guard: Guard,
    sources: Sources,
    streams: EventStreams,
    actions: Sequence[Action],
    hosts: HostCheck,
) -> PageResource:
    """Make the resource tree."""
    root = Root(guard, hosts)
    root.putChild(b"", pages.Redirect(guard))
    fleet = pages.OverviewPage(guard, sources)
    root.putChild(b"fleet", fleet)
    fleet.putChild(b"", pages.Redirect(guard))
    fleet.putChild(b"boxes", pages.BoxesPage(guard, sources))
    fleet.putChild(b"audit", pages.AuditPage(guard, sources))
    fleet.putChild(b"events", Events(guard, sources, streams))
    fleet.putChild(b"box", pages.Folder(guard, lambda name: pages.BoxPage(guard, sources, name)))
    fleet.putChild(
        b"release", pages.Folder(guard, lambda name: pages.ReleasePage(guard, sources, name))
    )
    for action in actions:
        fleet.putChild(action.name.encode(), ActionResource(guard, sources, action))
    for name, asset in ASSETS.items():
        fleet.putChild(name.encode(), _fixed(asset))
    return root


class Root(PageResource):
    """Answers 403 to every request whose Host header is not a name of this server."""

    def __init__(self, guard: Guard, hosts: HostCheck) -> None:
        super().__init__(guard)
        self._hosts = hosts

    def getChildWithDefault(self, path: bytes, request: BoundedRequest) -> IResource:
        """Find a resource, if the request is for this server."""
        name = self._hosts.find_foreign(request)
        if name is not None:
            return _Forbidden(self.guard, name)
        found: IResource = super().getChildWithDefault(path, request)
        return found


class _Forbidden(PageResource):
    isLeaf = True

    def __init__(self, guard: Guard, name: str) -> None:
        super().__init__(guard)
        self._name = name

    def render(self, request: BoundedRequest) -> int:
        sentence = (
            f"The page of the fleet does not answer to the name {self._name!r}. Use the server's "
            "address, or give the name to the server with --fleet-host."
        )
        return request.reply(self.guard.problem(request, FORBIDDEN, sentence))


def _fixed(asset: Asset) -> FunctionResource:
    reply = Reply.of(OK, asset.content, asset.media_type, _ASSET_HEADERS)
    return FunctionResource(lambda request: reply)
