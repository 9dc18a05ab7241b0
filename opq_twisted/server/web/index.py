"""Sends the index of an archive's pieces, by which boxes find the pieces that they have already."""

from collections.abc import Callable
from random import random

from twisted.web.http import NOT_FOUND, NOT_MODIFIED, OK, PRECONDITION_FAILED, SERVICE_UNAVAILABLE

from opq_twisted.http.conditional import evaluate
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource
from opq_twisted.server.catalog.digests import Digests
from opq_twisted.server.catalog.indexes import Indexes
from opq_twisted.server.catalog.snapshot import Catalog
from opq_twisted.server.catalog.updates_file import Archive
from opq_twisted.server.web.archive import (
    NO_SUCH_UPDATE,
    CannotServe,
    date_and_caching,
    entity_tag,
    open_archive,
)

#: The name of an index is that of its archive with this suffix.
SUFFIX = ".pieces"

#: Minimum and maximum of the seconds after which a client may ask again while the index is being
#: computed. The number is random, so that not all clients come back at once.
_RETRY_AFTER = (2, 4)

_NO_INDEX = Reply.sentence(
    NOT_FOUND,
    "This update has no index of pieces: it is one piece, or has too many. Fetch the whole.",
)


class IndexResource(PlainResource):
    """Sends the index of the archive that has a certain name in the catalog."""

    isLeaf = True

    def __init__(
        self,
        catalog: Catalog,
        digests: Digests,
        indexes: Indexes,
        name: str,
        may_be_cached: Callable[[Archive, bytes | None], bool],
        random: Callable[[], float] = random,
    ) -> None:
        """
        :param name: the archive's.
        :param may_be_cached: decides by archive and SHA-256 whether caches may keep it.
        """
        super().__init__()
        self._catalog = catalog
        self._digests = digests
        self._indexes = indexes
        self._name = name
        self._may_be_cached = may_be_cached
        self._random = random

    def render_GET(self, request: BoundedRequest) -> Reply:
        """Reply 200 with the index, 304, 412, 404 if there is none, or 503 while it is computed."""
        try:
            opened = open_archive(self._catalog, self._name)
        except CannotServe as error:
            return _not_now(str(error))
        if opened is None:
            return NO_SUCH_UPDATE
        archive, file = opened
        file.close()
        self._digests.want(archive)
        is_soon = self._indexes.want(archive)
        index = self._indexes.known(archive)
        if index is None:
            return self._soon() if is_soon else _not_now("The server has no time for it now.")
        may_be_cached = self._may_be_cached(archive, self._digests.known(archive))
        return respond(request, archive, index, may_be_cached) if index else _NO_INDEX

    def _soon(self) -> Reply:
        least, longest = _RETRY_AFTER
        seconds = least + int((longest - least + 1) * self._random())
        return Reply.sentence(
            SERVICE_UNAVAILABLE,
            "The index of this update is being computed. Try again in a few seconds.",
            {b"Retry-After": b"%d" % seconds},
        )


def _not_now(reason: str) -> Reply:
    """Send no `Retry-After`: a box does not wait then, but fetches the whole archive at once."""
    return Reply.sentence(
        SERVICE_UNAVAILABLE, f"There is no index of this update now. {reason} Fetch the whole."
    )


def respond(request: BoundedRequest, archive: Archive, index: bytes, may_be_cached: bool) -> Reply:
    """
    Make the reply to a GET or HEAD of an index.

    :param may_be_cached: whether caches may keep it for ever without asking again.
    """
    # The index depends on nothing but the archive.
    etag = entity_tag(archive)[:-1] + b'-pieces"'
    unmet = evaluate(request, etag, archive.modified_ns // 10**9)
    if unmet == PRECONDITION_FAILED:
        return Reply.of(unmet)
    headers = {b"ETag": etag, **date_and_caching(archive, may_be_cached)}
    if unmet == NOT_MODIFIED:
        return Reply.of(unmet, headers=headers)
    return Reply.of(OK, index, b"application/json", headers)
