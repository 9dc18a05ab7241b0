"""The server's URL tree."""

import json

from twisted.web.http import NOT_FOUND, OK, SEE_OTHER, SERVICE_UNAVAILABLE
from twisted.web.resource import IResource
from twisted.web.server import Request

from opq_twisted.server.catalog import Archive, Catalog, Snapshot
from opq_twisted.server.delivery import ArchiveResource
from opq_twisted.server.digests import Digests
from opq_twisted.server.preconditions import evaluate
from opq_twisted.webserver import PlainResource, answer, sentence

_NO_UPDATE = (
    "There is no update yet. Put an opq-box-update-VERSION.tar.bz2 into the updates directory."
)


def tree(catalog: Catalog, digests: Digests) -> IResource:
    """Put the server's resources together."""
    root = PlainResource()
    root.putChild(b"", Health(catalog))
    root.putChild(b"ls", Listing(catalog, digests))
    root.putChild(b"version", Version(catalog))
    root.putChild(b"latest", Latest(catalog))
    root.putChild(b"update", Updates(catalog, digests))
    return root


class CatalogResource(PlainResource):
    """A resource that answers from the catalog."""

    def __init__(self, catalog: Catalog) -> None:
        super().__init__()
        self._catalog = catalog


class Health(CatalogResource):
    """`/`: 200 and empty while the directory can be read, otherwise 503 and why not."""

    def render_GET(self, request: Request) -> bytes:
        """Say how the server is."""
        request.setHeader(b"Cache-Control", b"no-cache")
        if self._catalog.problem is not None:
            return sentence(request, SERVICE_UNAVAILABLE, self._catalog.problem)
        return answer(request, OK, b"")


class Listing(CatalogResource):
    """`/ls`: the archives, oldest first, as text or as JSON."""

    def __init__(self, catalog: Catalog, digests: Digests) -> None:
        super().__init__(catalog)
        self._digests = digests
        self._text_of: tuple[Snapshot, bytes] = (catalog.snapshot, b"")

    def render_GET(self, request: Request) -> bytes:
        """List what is offered."""
        request.setHeader(b"Vary", b"Accept")
        request.setHeader(b"Cache-Control", b"no-cache")
        if b"application/json" in (request.getHeader(b"Accept") or b""):
            archives = self._catalog.snapshot.archives
            body = json.dumps([self._describe(archive) for archive in archives])
            return answer(request, OK, body.encode(), b"application/json")
        return answer(request, OK, self._text())

    def _text(self) -> bytes:
        snapshot = self._catalog.snapshot
        if self._text_of[0] is not snapshot:
            text = "".join(f"{archive.name}\n" for archive in snapshot.archives)
            self._text_of = (snapshot, text.encode())
        return self._text_of[1]

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


class Version(CatalogResource):
    """`/version`: the newest version, digits only."""

    def render_GET(self, request: Request) -> bytes:
        """Say the newest version, or that the client knows it already."""
        request.setHeader(b"Cache-Control", b"no-cache")
        newest = self._catalog.snapshot.newest
        if newest is None:
            return sentence(request, NOT_FOUND, _NO_UPDATE)
        version = b"%d" % newest.name.version
        etag = b'"%s"' % version
        request.setHeader(b"ETag", etag)
        unmet = evaluate(request, etag)
        return answer(request, OK, version) if unmet is None else answer(request, unmet, b"")


class Latest(CatalogResource):
    """`/latest`: where the newest archive is."""

    def render_GET(self, request: Request) -> bytes:
        """Redirect to the newest archive."""
        request.setHeader(b"Cache-Control", b"no-cache")
        newest = self._catalog.snapshot.newest
        if newest is None:
            return sentence(request, NOT_FOUND, _NO_UPDATE)
        # Relative, so that it also holds behind a proxy that adds a path prefix.
        location = f"update/{newest.name}"
        request.setHeader(b"Location", location.encode())
        return sentence(request, SEE_OTHER, location)


class Updates(CatalogResource):
    """`/update/`: one child for each archive in the catalog."""

    def __init__(self, catalog: Catalog, digests: Digests) -> None:
        super().__init__(catalog)
        self._digests = digests

    def getChild(self, path: bytes, request: Request) -> IResource:
        """Find an archive by its name; what the catalog does not have is not found."""
        name = path.decode("ascii", "replace")
        if request.postpath or name not in self._catalog.snapshot.by_name:
            return super().getChild(path, request)
        return ArchiveResource(self._catalog, self._digests, name)
