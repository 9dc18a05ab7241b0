"""One archive over HTTP, with conditions and ranges (RFC 9110)."""

import base64
import io
import os
import secrets
from collections.abc import Callable, Sequence
from email.utils import formatdate
from time import time

from attrs import frozen
from twisted.logger import Logger
from twisted.web.http import (
    NOT_FOUND,
    OK,
    PARTIAL_CONTENT,
    PRECONDITION_FAILED,
    REQUESTED_RANGE_NOT_SATISFIABLE,
    SERVICE_UNAVAILABLE,
)
from twisted.web.server import NOT_DONE_YET

from opq_twisted.common import files
from opq_twisted.common.errors import MACHINE_BUSY
from opq_twisted.http.conditional import evaluate, range_applies
from opq_twisted.http.ranges import Range, Unsatisfiable, parse_ranges
from opq_twisted.http.reply import Reply, header_lines
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource
from opq_twisted.server.catalog.digests import Digests
from opq_twisted.server.catalog.snapshot import Catalog
from opq_twisted.server.catalog.updates_file import Archive, identify
from opq_twisted.server.limits import Downloads
from opq_twisted.server.web.sendfile import Part, send_parts

# An archive's name is never used again for other bytes.
_FOR_EVER = b"public, max-age=31536000, immutable"

_CONTENT_TYPE = b"application/octet-stream"

_log = Logger()

NO_SUCH_UPDATE = Reply.sentence(NOT_FOUND, "There is no such update. See /ls for those there are.")


class CannotServe(Exception):
    """An archive is on offer, but cannot be sent now; the message says why."""


@frozen
class ArchiveReply:
    """A reply whose body consists of parts of an archive."""

    code: int
    headers: dict[bytes, bytes]
    parts: Sequence[Part]


class ArchiveResource(PlainResource):
    """Sends the archive that has a certain name in the catalog."""

    isLeaf = True

    def __init__(
        self,
        catalog: Catalog,
        digests: Digests,
        downloads: Downloads,
        name: str,
        may_be_cached: Callable[[Archive, bytes | None], bool] = lambda archive, digest: True,
    ) -> None:
        """:param may_be_cached: decides by archive and SHA-256 whether caches may keep it."""
        super().__init__()
        self._may_be_cached = may_be_cached
        self._catalog = catalog
        self._digests = digests
        self._downloads = downloads
        self._name = name

    def render_GET(self, request: BoundedRequest) -> Reply | int:
        """Reply 200 or 206 with the archive, 304, 412, 416, 503, or 404 if it is not on offer."""
        try:
            opened = open_archive(self._catalog, self._name)
        except CannotServe as error:
            return self._later(str(error))
        if opened is None:
            return NO_SUCH_UPDATE
        archive, file = opened
        self._digests.want(archive)
        digest = self._digests.known(archive)
        reply = respond(request, archive, digest, self._may_be_cached(archive, digest))
        if isinstance(reply, ArchiveReply):
            if self._downloads.has_room(request.channel.client):
                ended = self._downloads.begin(archive, request.channel.client)
                request.notifyFinish().addBoth(ended)
                head = request.begin(reply.code, header_lines(reply.headers))
                send_parts(request, head, file, reply.parts, self._downloads)
                return NOT_DONE_YET
            reply = self._later("There are too many downloads at once.")
        file.close()
        return reply

    def _later(self, reason: str) -> Reply:
        return Reply.sentence(
            SERVICE_UNAVAILABLE,
            f"{reason} Try again in a little while.",
            {b"Retry-After": b"%d" % self._downloads.reject()},
        )


def open_archive(catalog: Catalog, name: str) -> tuple[Archive, io.FileIO] | None:
    """
    Open an archive as the catalog knows it; None if it is not on offer.

    If the file has changed since the catalog checked it, the catalog checks it once more: only a
    file that was found to be whole is sent.

    :raises CannotServe: if it cannot be opened now.
    """
    for _ in range(2):
        archive = catalog.snapshot.find(name)
        if archive is None:
            return None
        try:
            file = files.open_regular(archive.path, follow_links=False)
        except OSError as error:
            if error.errno in MACHINE_BUSY:
                raise CannotServe("The server is busy.") from None
            _log.warn("{name} cannot be opened: {error}", name=name, error=error)
        else:
            if identify(os.fstat(file.fileno())) == archive.identity:
                return archive, file
            file.close()
        catalog.check([name])
    if catalog.snapshot.find(name) is not None:
        raise CannotServe("This update cannot be read now.")
    return None


def respond(
    request: BoundedRequest, archive: Archive, digest: bytes | None, may_be_cached: bool
) -> ArchiveReply | Reply:
    """
    Make the reply to a GET or HEAD of an archive (RFC 9110, section 13.2.2).

    :param may_be_cached: whether caches may keep the archive for ever without asking again.
    """
    etag, modified = entity_tag(archive), archive.modified_ns // 10**9
    unmet = evaluate(request, etag, modified)
    if unmet == PRECONDITION_FAILED:
        return Reply.of(unmet)
    headers = _describe(archive, digest, may_be_cached)
    if unmet is not None:
        return Reply.of(unmet, headers=headers)
    wanted = request.getHeader(b"Range")
    # Ranges are defined for GET only (section 14.2).
    if wanted and request.method == b"GET" and range_applies(request, etag, modified, time()):
        try:
            ranges = parse_ranges(wanted, archive.size)
        except Unsatisfiable:
            return Reply.sentence(
                REQUESTED_RANGE_NOT_SATISFIABLE,
                f"The update has {archive.size} bytes.",
                {b"Content-Range": b"bytes */%d" % archive.size},
            )
        if ranges is not None:
            return _partial(headers, ranges, archive.size)
    headers[b"Content-Type"] = _CONTENT_TYPE
    headers[b"Content-Length"] = b"%d" % archive.size
    if request.method == b"HEAD":
        return Reply(OK, header_lines(headers))
    return ArchiveReply(OK, headers, [Range(0, archive.size)])


def entity_tag(archive: Archive) -> bytes:
    """Make a strong entity tag that is the same on all servers with the same directory."""
    return b'"%x-%x"' % (archive.modified_ns, archive.size)


def _describe(archive: Archive, digest: bytes | None, may_be_cached: bool) -> dict[bytes, bytes]:
    headers = {
        b"Content-Disposition": b'attachment; filename="%s"' % str(archive.name).encode(),
        b"Accept-Ranges": b"bytes",
        b"ETag": entity_tag(archive),
        **date_and_caching(archive, may_be_cached),
    }
    if digest is not None:
        headers[b"Repr-Digest"] = b"sha-256=:%s:" % base64.b64encode(digest)  # RFC 9530
    return headers


def date_and_caching(archive: Archive, may_be_cached: bool) -> dict[bytes, bytes]:
    """Make the headers that an archive has in common with its index."""
    return {
        b"Last-Modified": formatdate(archive.modified_ns // 10**9, usegmt=True).encode(),
        b"Cache-Control": _FOR_EVER if may_be_cached else b"no-cache",
    }


def _partial(headers: dict[bytes, bytes], ranges: list[Range], size: int) -> ArchiveReply:
    """Reply with one range, or with several as multipart/byteranges (section 15.3.7)."""
    if len(ranges) == 1:
        headers[b"Content-Type"] = _CONTENT_TYPE
        headers[b"Content-Range"] = ranges[0].content_range(size)
        parts: list[Part] = [*ranges]
    else:
        boundary = secrets.token_hex(16).encode()
        headers[b"Content-Type"] = b"multipart/byteranges; boundary=%s" % boundary
        parts = []
        for each in ranges:
            part_head = {
                b"Content-Type": _CONTENT_TYPE,
                b"Content-Range": each.content_range(size),
            }
            parts += [b"\r\n--%s\r\n%s\r\n" % (boundary, header_lines(part_head)), each]
        parts.append(b"\r\n--%s--\r\n" % boundary)
    length = sum(part.length if isinstance(part, Range) else len(part) for part in parts)
    headers[b"Content-Length"] = b"%d" % length
    return ArchiveReply(PARTIAL_CONTENT, headers, parts)
