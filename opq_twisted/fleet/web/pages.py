"""The pages without actions: the overview, lists, a box, a release."""

from collections.abc import Callable
from functools import partial

from attrs import frozen
from sqlalchemy import Connection
from twisted.web.http import OK, SEE_OTHER
from twisted.web.resource import IResource

from opq_twisted.fleet.control.answers import Content
from opq_twisted.fleet.control.fields import Fields
from opq_twisted.fleet.control.queries import Queries
from opq_twisted.fleet.engine.judge import Judge
from opq_twisted.fleet.store.database import Database
from opq_twisted.fleet.web.answers import answer
from opq_twisted.fleet.web.content import release_content
from opq_twisted.fleet.web.current_overview import CurrentOverview
from opq_twisted.fleet.web.notices import Notices
from opq_twisted.fleet.web.resource import Guard, PageResource
from opq_twisted.fleet.web.views import render
from opq_twisted.fleet.web.views.viewer import Viewer
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest

#: A page has so many rows, unless the query has a `limit`.
_ROWS = 100

#: The fields of the filter for boxes, and those fields that are numbers.
_FILTER = ("channel", "release", "state", "waiting", "not_seen_for", "need")
_NUMBERS = ("release", "not_seen_for")


@frozen
class Sources:
    """The objects from which the pages get their content."""

    database: Database
    queries: Queries
    judge: Judge
    current: CurrentOverview
    notices: Notices


class GetPage(PageResource):
    """Answers GET with a page, or with its content as JSON."""

    def __init__(self, guard: Guard, sources: Sources) -> None:
        super().__init__(guard)
        self.sources = sources

    def render_GET(self, request: BoundedRequest) -> int:
        """Answer after the content was read."""
        return self.serve(request, self.show)

    async def show(self, request: BoundedRequest, viewer: Viewer) -> Reply | int:
        """Make the answer."""
        raise NotImplementedError

    def notice(self, request: BoundedRequest) -> str | None:
        """Return the sentence about the action before this page; None if there was none."""
        words = request.args.get(b"done", [b""])
        return self.sources.notices.find(words[0].decode("latin-1"))

    async def read(self, query: Callable[[Connection], Content]) -> Content:
        """Read the database."""
        return await self.sources.database.read(query)


class OverviewPage(GetPage):
    """`/fleet`: the state of the fleet."""

    async def show(self, request: BoundedRequest, viewer: Viewer) -> Reply:
        """Show the last count."""
        content = await self.sources.current.get()
        page = partial(render.overview, content, viewer, self.notice(request))
        return answer(request, OK, content, page)


class BoxesPage(GetPage):
    """`/fleet/boxes`: the boxes that match a filter, in pages."""

    async def show(self, request: BoundedRequest, viewer: Viewer) -> Reply:
        """List boxes."""
        fields = _query(request)
        wanted = {
            name: fields.number(name) if name in _NUMBERS else fields.word(name) for name in _FILTER
        }
        found = await self.read(self.sources.queries.boxes(fields))
        content = {
            **found,
            "time": self.guard.now(),
            "filter": wanted,
            "after": fields.number("after"),
        }
        page = partial(render.boxes, content, viewer, self.notice(request))
        return answer(request, OK, content, page)


class AuditPage(GetPage):
    """`/fleet/audit`: the changes by people and by the server, the last one first."""

    async def show(self, request: BoundedRequest, viewer: Viewer) -> Reply:
        """List changes."""
        fields = _query(request)
        found = await self.read(self.sources.queries.audit(fields))
        content = {
            **found,
            "time": self.guard.now(),
            "release": fields.number("release"),
            "before": fields.number("before"),
        }
        return answer(request, OK, content, partial(render.audit, content, viewer))


class BoxPage(GetPage):
    """`/fleet/box/NAME`: the keys of a box, and its attempts."""

    def __init__(self, guard: Guard, sources: Sources, name: str) -> None:
        super().__init__(guard, sources)
        self._name = name

    async def show(self, request: BoundedRequest, viewer: Viewer) -> Reply:
        """Show a box."""
        fields = Fields({"name": self._name})
        content = {**await self.read(self.sources.queries.box(fields)), "name": self._name}
        page = partial(render.box, content, viewer, self.notice(request))
        return answer(request, OK, content, page)


class ReleasePage(GetPage):
    """`/fleet/release/VERSION`: a release in its channels."""

    def __init__(self, guard: Guard, sources: Sources, name: str) -> None:
        super().__init__(guard, sources)
        self._name = name

    async def show(self, request: BoundedRequest, viewer: Viewer) -> Reply:
        """Show a release."""
        fields = Fields({"release": self._name}, are_texts=True)
        query, now = self.sources.queries.release(fields), self.guard.now()
        judge = self.sources.judge
        content = await self.read(
            lambda connection: release_content(connection, query(connection), now, judge)
        )
        page = partial(render.release, content, viewer, self.notice(request))
        return answer(request, OK, content, page)


class Folder(PageResource):
    """The parent of pages whose last part of the path is a name."""

    def __init__(self, guard: Guard, make_page: Callable[[str], IResource]) -> None:
        super().__init__(guard)
        self._make_page = make_page

    def getChild(self, path: bytes, request: BoundedRequest) -> IResource:
        """Make the page; 404 without a name."""
        if not path:
            return super().getChild(path, request)
        return self._make_page(path.decode("utf-8", "replace"))


class Redirect(PageResource):
    """`/`: leads to the page of the fleet."""

    def render_GET(self, request: BoundedRequest) -> Reply:
        """Redirect without a password, because the answer contains nothing secret."""
        return Reply.sentence(SEE_OTHER, "The page is at /fleet.", {b"Location": b"/fleet"})


def _query(request: BoundedRequest) -> Fields:
    """Read the query of a request; an empty field of a form counts as missing."""
    for name in [name for name, values in request.args.items() if values == [b""]]:
        del request.args[name]
    request.args.setdefault(b"limit", [b"%d" % _ROWS])
    return Fields.of_query(request)
