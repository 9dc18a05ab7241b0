"""The server's URL tree."""

import json
from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.web.http import (
    NOT_FOUND,
    NOT_MODIFIED,
    OK,
    PRECONDITION_FAILED,
    SEE_OTHER,
    SERVICE_UNAVAILABLE,
    TEMPORARY_REDIRECT,
)
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET

from opq_twisted.http.conditional import evaluate, tags_known
from opq_twisted.http.negotiation import preferred
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource
from opq_twisted.server.catalog.digests import Digests
from opq_twisted.server.catalog.snapshot import Archive, Catalog, Snapshot
from opq_twisted.server.limits import Downloads
from opq_twisted.server.timestamp.signed_archives import CurrentSignedArchives
from opq_twisted.server.timestamp.state import MetadataState
from opq_twisted.server.web.archive import ArchiveResource
from opq_twisted.server.web.listing import ListingPage
from opq_twisted.server.web.long_poll import LongPollers, preferred_wait
from opq_twisted.server.web.metadata import MetadataFiles

#: An answer that changes with the catalog may be kept, but is not used before asking again.
_REVALIDATE = {b"Cache-Control": b"no-cache"}

_LIST_HEADERS = {**_REVALIDATE, b"Vary": b"Accept"}

#: The forms of the list; who says nothing gets the first.
_LIST_FORMS = (b"text/plain", b"application/json", b"text/html")

_NO_UPDATE_YET = (
    "There is no update yet. Put an opq-box-update-VERSION.tar.bz2 into the updates directory."
)

_NO_UPDATE = Reply.sentence(NOT_FOUND, _NO_UPDATE_YET)

#: The entity tag of no version, with which boxes wait for the first one.
_NO_VERSION_TAG = b'"none"'

_NO_VERSION = Reply.sentence(NOT_FOUND, _NO_UPDATE_YET, {**_REVALIDATE, b"ETag": _NO_VERSION_TAG})

#: What boxes that wait are answered when there was nothing to say in all that time.
_UNCHANGED = Reply.of(NOT_MODIFIED)

#: Stands for the digest of the channels while no timestamp announces any.
_NOTHING_ANNOUNCED = "0"

_T = TypeVar("_T")


def make_root(
    catalog: Catalog,
    digests: Digests,
    downloads: Downloads,
    version: "NewestVersion",
    mirror: str | None = None,
    metadata_state: Callable[[], MetadataState] = MetadataState,
) -> PlainResource:
    """
    Put the resources of the protocol together.

    :param mirror: a URL, without a slash at its end, where the archives are sent from instead.
    :param metadata_state: tells how the signed metadata is; without it nothing is signed.
    """

    def child(name: str) -> IResource:
        if mirror is not None:
            return MirrorRedirect(mirror, name)
        return ArchiveResource(catalog, digests, downloads, name, signed.may_be_cached)

    signed = CurrentSignedArchives(catalog.directory, metadata_state)
    root = PlainResource()
    root.putChild(b"", Health(catalog))
    root.putChild(b"ls", Listing(catalog, digests, ListingPage(catalog, digests, metadata_state)))
    root.putChild(b"version", version)
    root.putChild(b"latest", Latest(catalog, mirror))
    root.putChild(b"update", Updates(catalog, child))
    root.putChild(b"tuf", MetadataFiles(catalog.directory, metadata_state))
    return root


class SnapshotCache(Generic[_T]):
    """Makes something of the catalog's snapshot, once for each."""

    def __init__(self, catalog: Catalog, make: Callable[[Snapshot], _T]) -> None:
        self._catalog = catalog
        self._make = make
        self._made_of: Snapshot | None = None

    def get(self) -> _T:
        """Give what is made of the current snapshot."""
        snapshot = self._catalog.snapshot
        if snapshot is not self._made_of:
            self._made = self._make(snapshot)
            self._made_of = snapshot
        return self._made

    def forget(self) -> None:
        """Make it anew when it is asked for: something else that it is made of has changed."""
        self._made_of = None


class Health(PlainResource):
    """`/`: 200 and empty while the directory can be read, otherwise 503 and why not."""

    _WELL = Reply.of(OK, headers=_REVALIDATE)

    def __init__(self, catalog: Catalog) -> None:
        super().__init__()
        self._catalog = catalog

    def render_GET(self, request: BoundedRequest) -> Reply:
        """Say how the server is."""
        problem = self._catalog.problem
        return self._WELL if problem is None else Reply.sentence(SERVICE_UNAVAILABLE, problem)


class Listing(PlainResource):
    """`/ls`: the archives as text, as JSON or as a page."""

    def __init__(self, catalog: Catalog, digests: Digests, page: ListingPage) -> None:
        super().__init__()
        self._digests = digests
        self._page = page
        self._text = SnapshotCache(catalog, self._as_text)
        self._json = SnapshotCache(catalog, self._as_json)
        digests.observers.append(self._json.forget)

    def render_GET(self, request: BoundedRequest) -> Reply:
        """List what is on offer."""
        form = preferred(request, _LIST_FORMS)
        if form == b"text/html":
            return self._page.reply(request, _LIST_HEADERS)
        return (self._json if form == b"application/json" else self._text).get()

    def _as_text(self, snapshot: Snapshot) -> Reply:
        text = "".join(f"{archive.name}\n" for archive in snapshot.archives)
        return Reply.of(OK, text.encode(), headers=_LIST_HEADERS)

    def _as_json(self, snapshot: Snapshot) -> Reply:
        archives = [self._describe(archive) for archive in snapshot.archives]
        return Reply.of(OK, json.dumps(archives).encode(), b"application/json", _LIST_HEADERS)

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


class NewestVersion(PlainResource):
    """
    `/version`: the newest version, digits only, now or when boxes have something new to act on.

    In a directory without signed metadata that is another newest version. In one with signed
    metadata it is other channels in the set that the timestamp announces: another release for one
    of them, or another rollout of it. An archive that only lies there, and a timestamp that was
    signed anew, are nothing to act on.
    """

    def __init__(self, clock: IReactorTime, catalog: Catalog, await_metadata: bool = False) -> None:
        """
        Answer from the catalog.

        :param await_metadata: whether boxes that would wait get no answer before the first
            `metadata_changed`. After a restart they would take the missing metadata for a change.
        """
        super().__init__()
        self._answers = SnapshotCache(catalog, self._make_answers)
        self._newest: int | None = None
        #: The digest of the announced channels; empty where nothing is signed, None until that is
        #: known.
        self._announced: str | None = None if await_metadata else ""
        #: The boxes that wait for something new.
        self.long_pollers = LongPollers(clock, self._answer_to_waiting)
        catalog.observers.append(self._catalog_changed)

    def render_GET(self, request: BoundedRequest) -> Reply | int:
        """Say the newest version; to who knows it, when something is new or the wait is over."""
        seconds = preferred_wait(request)
        if not seconds:
            return self._answer(request)
        reply = self._answer_to_waiting(request)
        if reply.code != NOT_MODIFIED:
            return reply
        self.long_pollers.add(request, seconds)
        return NOT_DONE_YET

    def metadata_changed(self, metadata_state: MetadataState) -> None:
        """Answer those that wait, if other channels are announced now."""
        if metadata_state.present:
            # While the timestamp is not usable, boxes act on the channels that they have seen.
            announced = metadata_state.announced or self._announced or _NOTHING_ANNOUNCED
        else:
            announced = ""
        if announced != self._announced:
            self._announced = announced
            self._answers.forget()
            self.long_pollers.wake()

    def _answer(self, request: BoundedRequest) -> Reply:
        etag, replies = self._answers.get()
        return replies[evaluate(request, etag)] if etag else _NO_VERSION

    def _answer_to_waiting(self, request: BoundedRequest) -> Reply:
        if self._announced is None:
            return _UNCHANGED
        reply = self._answer(request)
        if reply is _NO_VERSION and _NO_VERSION_TAG in tags_known(request):
            return _UNCHANGED
        if reply.code == OK and self._announced:
            # The newest archive may be another one, and is nothing to act on.
            end = f'-{self._announced}"'.encode()
            if any(tag.endswith(end) for tag in tags_known(request)):
                return self._answers.get()[1][NOT_MODIFIED]
        return reply

    def _catalog_changed(self, snapshot: Snapshot) -> None:
        newest = None if snapshot.newest is None else snapshot.newest.name.version
        if newest != self._newest:
            self._newest = newest
            self.long_pollers.wake()

    def _make_answers(self, snapshot: Snapshot) -> tuple[bytes, dict[int | None, Reply]]:
        """Make the entity tag, and the answer for each outcome of `evaluate`."""
        if snapshot.newest is None:
            return b"", {}
        version = b"%d" % snapshot.newest.name.version
        announced = f"-{self._announced}".encode() if self._announced else b""
        etag = b'"%s%s"' % (version, announced)
        headers = {**_REVALIDATE, b"ETag": etag}
        return etag, {
            None: Reply.of(OK, version, headers=headers),
            NOT_MODIFIED: Reply.of(NOT_MODIFIED, headers=headers),
            PRECONDITION_FAILED: Reply.of(PRECONDITION_FAILED),
        }


class Latest(PlainResource):
    """`/latest`: where the newest archive is."""

    def __init__(self, catalog: Catalog, mirror: str | None) -> None:
        super().__init__()
        # Relative, so that it also holds behind a proxy that adds a path prefix.
        self._base = f"{mirror}/" if mirror else ""
        self._reply = SnapshotCache(catalog, self._redirect)

    def render_GET(self, request: BoundedRequest) -> Reply:
        """Redirect to the newest archive."""
        return self._reply.get()

    def _redirect(self, snapshot: Snapshot) -> Reply:
        if snapshot.newest is None:
            return _NO_UPDATE
        location = f"{self._base}update/{snapshot.newest.name}"
        return Reply.sentence(SEE_OTHER, location, {**_REVALIDATE, b"Location": location.encode()})


class Updates(PlainResource):
    """`/update/`: one child for each archive in the catalog."""

    def __init__(self, catalog: Catalog, child: Callable[[str], IResource]) -> None:
        super().__init__()
        self._catalog = catalog
        self._child = child

    def getChild(self, path: bytes, request: BoundedRequest) -> IResource:
        """Find an archive by its name; what the catalog does not have is not found."""
        name = path.decode("ascii", "replace")
        if request.postpath or self._catalog.snapshot.find(name) is None:
            return super().getChild(path, request)
        return self._child(name)


class MirrorRedirect(PlainResource):
    """An archive that a mirror sends."""

    isLeaf = True

    def __init__(self, mirror: str, name: str) -> None:
        super().__init__()
        self._location = f"{mirror}/update/{name}"

    def render_GET(self, request: BoundedRequest) -> Reply:
        """Redirect there, now and for this time."""
        return Reply.sentence(
            TEMPORARY_REDIRECT, self._location, {b"Location": self._location.encode()}
        )
