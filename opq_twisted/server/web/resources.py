"""The server's URL tree."""

import json
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from twisted.web.http import NOT_FOUND, OK, SEE_OTHER, SERVICE_UNAVAILABLE, TEMPORARY_REDIRECT
from twisted.web.resource import IResource

from opq_twisted.http.negotiation import preferred
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import FunctionResource, PlainResource
from opq_twisted.server.catalog.digests import Digests
from opq_twisted.server.catalog.indexes import Indexes
from opq_twisted.server.catalog.snapshot import Catalog, Snapshot
from opq_twisted.server.catalog.updates_file import Archive
from opq_twisted.server.limits import Downloads
from opq_twisted.server.timestamp.signed_archives import CurrentSignedArchives
from opq_twisted.server.timestamp.state import MetadataState
from opq_twisted.server.web.archive import ArchiveResource
from opq_twisted.server.web.index import SUFFIX, IndexResource
from opq_twisted.server.web.listing import ListingPage
from opq_twisted.server.web.long_poll import NO_UPDATE, REVALIDATE, NewestVersion
from opq_twisted.server.web.metadata import MetadataFiles

_NEGOTIATED = {**REVALIDATE, b"Vary": b"Accept"}

#: The media types of the list; a client without a preference gets the first.
_LIST_FORMS = (b"text/plain", b"application/json", b"text/html")

_HEALTHY = Reply.of(OK, headers=_NEGOTIATED)

#: The same for a browser, which goes on to the list. The relative URL also works behind a proxy
#: that adds a path prefix.
_HEALTHY_IN_BROWSER = Reply.of(OK, headers={**_NEGOTIATED, b"Refresh": b"0; url=ls"})
_NO_UPDATE = Reply.sentence(NOT_FOUND, NO_UPDATE)

_T = TypeVar("_T")


def make_root(
    catalog: Catalog,
    digests: Digests,
    indexes: Indexes,
    downloads: Downloads,
    version: NewestVersion,
    mirror: str | None = None,
    metadata_state: Callable[[], MetadataState] = MetadataState,
) -> PlainResource:
    """
    Make the tree of the server's resources.

    :param mirror: the URL of a server that sends the archives instead, without a slash at its end.
    :param metadata_state: gives the state of the signed metadata; by default nothing is signed.
    """

    def archive(name: str) -> IResource:
        if mirror is not None:
            return FunctionResource(partial(redirect_to_mirror, mirror, name))
        return ArchiveResource(catalog, digests, downloads, name, signed.may_be_cached)

    def index(name: str) -> IResource:
        return IndexResource(catalog, digests, indexes, name, signed.may_be_cached)

    signed = CurrentSignedArchives(catalog.directory, metadata_state)
    root = PlainResource()
    root.putChild(b"", FunctionResource(partial(report_health, catalog)))
    root.putChild(b"ls", Listing(catalog, digests, ListingPage(catalog, digests, metadata_state)))
    root.putChild(b"version", version)
    latest = SnapshotCache(catalog, partial(redirect_to_newest, mirror))
    root.putChild(b"latest", FunctionResource(lambda _: latest.get()))
    root.putChild(b"update", Updates(catalog, archive, index))
    root.putChild(b"tuf", MetadataFiles(catalog.directory, metadata_state))
    return root


class SnapshotCache(Generic[_T]):
    """Caches a value that is computed from the catalog's snapshot."""

    def __init__(self, catalog: Catalog, make: Callable[[Snapshot], _T]) -> None:
        self._catalog = catalog
        self._make = make
        self._source: Snapshot | None = None

    def get(self) -> _T:
        """Return the value for the current snapshot."""
        snapshot = self._catalog.snapshot
        if snapshot is not self._source:
            self._value = self._make(snapshot)
            self._source = snapshot
        return self._value

    def invalidate(self) -> None:
        """Drop the cached value, because another of its inputs has changed."""
        self._source = None


def report_health(catalog: Catalog, request: BoundedRequest) -> Reply:
    """Reply to `/`: 200 and empty while the directory can be read, otherwise 503 and the reason."""
    if catalog.problem is not None:
        return Reply.sentence(SERVICE_UNAVAILABLE, catalog.problem)
    return _HEALTHY_IN_BROWSER if preferred(request, _LIST_FORMS) == b"text/html" else _HEALTHY


class Listing(PlainResource):
    """`/ls`: the archives as text, as JSON or as a page."""

    def __init__(self, catalog: Catalog, digests: Digests, page: ListingPage) -> None:
        super().__init__()
        self._digests = digests
        self._page = page
        self._text = SnapshotCache(catalog, self._as_text)
        self._json = SnapshotCache(catalog, self._as_json)
        digests.observers.append(self._json.invalidate)

    def render_GET(self, request: BoundedRequest) -> Reply:
        """List the archives on offer."""
        form = preferred(request, _LIST_FORMS)
        if form == b"text/html":
            return self._page.reply(request, _NEGOTIATED)
        return (self._json if form == b"application/json" else self._text).get()

    def _as_text(self, snapshot: Snapshot) -> Reply:
        text = "".join(f"{archive.name}\n" for archive in snapshot.archives)
        return Reply.of(OK, text.encode(), headers=_NEGOTIATED)

    def _as_json(self, snapshot: Snapshot) -> Reply:
        archives = [self._describe(archive) for archive in snapshot.archives]
        return Reply.of(OK, json.dumps(archives).encode(), b"application/json", _NEGOTIATED)

    def _describe(self, archive: Archive) -> dict[str, object]:
        described: dict[str, object] = {
            "name": str(archive.name),
            "version": archive.name.version,
            "size": archive.size,
            "modified": archive.modified_ns // 10**9,
        }
        digest = self._digests.known(archive)
        if digest is not None:
            described["sha256"] = digest.hex()
        return described


def redirect_to_newest(mirror: str | None, snapshot: Snapshot) -> Reply:
    """Reply to `/latest` with a redirect to the newest archive."""
    if snapshot.newest is None:
        return _NO_UPDATE
    # A relative URL also works behind a proxy that adds a path prefix.
    base = f"{mirror}/" if mirror else ""
    location = f"{base}update/{snapshot.newest.name}"
    return Reply.sentence(SEE_OTHER, location, {**REVALIDATE, b"Location": location.encode()})


class Updates(PlainResource):
    """`/update/`: two children for each archive in the catalog, the archive and its index."""

    def __init__(
        self,
        catalog: Catalog,
        archive: Callable[[str], IResource],
        index: Callable[[str], IResource],
    ) -> None:
        super().__init__()
        self._catalog = catalog
        self._archive = archive
        self._index = index

    def getChild(self, path: bytes, request: BoundedRequest) -> IResource:
        """Find an archive or its index by name, or answer 404."""
        name = path.decode("ascii", "replace")
        archive = name.removesuffix(SUFFIX)
        if request.postpath or self._catalog.snapshot.find(archive) is None:
            return super().getChild(path, request)
        return self._archive(name) if archive == name else self._index(archive)


def redirect_to_mirror(mirror: str, name: str, _request: BoundedRequest) -> Reply:
    """Redirect to the mirror that sends an archive, with 307 (temporary)."""
    location = f"{mirror}/update/{name}"
    return Reply.sentence(TEMPORARY_REDIRECT, location, {b"Location": location.encode()})
