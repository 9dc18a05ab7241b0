"""One archive over HTTP."""

import base64
import os
from email.utils import formatdate

from twisted.internet.interfaces import IPullProducer
from twisted.logger import Logger
from twisted.web.http import NOT_FOUND, OK, PRECONDITION_FAILED, SERVICE_UNAVAILABLE
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from opq_twisted.server.catalog import (
    MACHINE_BUSY,
    Archive,
    Catalog,
    identify,
    open_at_once,
)
from opq_twisted.server.digests import Digests
from opq_twisted.server.preconditions import evaluate
from opq_twisted.webserver import PlainResource, answer, sentence

_CHUNK = 128 * 1024

#: Seconds after which a client that takes no chunk more is cut: 1 kB a second is still served.
_STALLED = 300

#: Seconds after which a client may ask again when the machine has run out of descriptors.
_RETRY_AFTER = 30


class ArchiveResource(PlainResource):
    """Sends the archive that a name stands for in the catalog."""

    isLeaf = True
    _log = Logger()

    def __init__(self, catalog: Catalog, digests: Digests, name: str) -> None:
        super().__init__()
        self._catalog = catalog
        self._digests = digests
        self._name = name

    def render_GET(self, request: Request) -> bytes | int:
        """200 with the archive, 304, 412, or 404 for any name that is not in the catalog."""
        try:
            opened = self._open()
        except OSError:
            request.setHeader(b"Retry-After", b"%d" % _RETRY_AFTER)
            return sentence(
                request, SERVICE_UNAVAILABLE, "The server is busy. Try again in a little while."
            )
        if opened is None:
            return sentence(
                request, NOT_FOUND, "There is no such update. See /ls for those there are."
            )
        archive, fd = opened
        self._digests.want(archive)
        unmet = evaluate(request, entity_tag(archive), archive.modified_ns // 10**9)
        if unmet != PRECONDITION_FAILED:
            self._describe(request, archive)
        if unmet is None and request.method == b"GET":
            request.setResponseCode(OK)
            Transmission(request, fd, archive.size).start()
            return NOT_DONE_YET
        os.close(fd)
        return b"" if unmet is None else answer(request, unmet, b"")

    def _open(self) -> tuple[Archive, int] | None:
        """
        Open the archive that the catalog promises.

        A file that changed since the catalog looked is looked at once more: what is sent is what
        was found to be whole.

        :raises OSError: when the machine can open no file now.
        """
        for _ in range(2):
            archive = self._catalog.snapshot.by_name.get(self._name)
            if archive is None:
                return None
            try:
                fd = open_at_once(archive.path)
            except OSError as error:
                if error.errno in MACHINE_BUSY:
                    raise
                self._log.warn("{name} cannot be opened: {error}", name=self._name, error=error)
            else:
                if identify(os.fstat(fd)) == archive.identity:
                    return archive, fd
                os.close(fd)
            self._catalog.look([self._name])
        return None

    def _describe(self, request: Request, archive: Archive) -> None:
        headers = {
            b"Content-Type": b"application/octet-stream",
            b"Content-Length": b"%d" % archive.size,
            b"Content-Disposition": b'attachment; filename="%s"' % str(archive.name).encode(),
            b"ETag": entity_tag(archive),
            b"Last-Modified": formatdate(archive.modified_ns // 10**9, usegmt=True).encode(),
            # A name is never used twice.
            b"Cache-Control": b"public, max-age=31536000, immutable",
        }
        digest = self._digests.known(archive)
        if digest is not None:
            headers[b"Repr-Digest"] = b"sha-256=:%s:" % base64.b64encode(digest)  # RFC 9530
        for name, value in headers.items():
            request.setHeader(name, value)


def entity_tag(archive: Archive) -> bytes:
    """Make a strong tag that several servers over one directory, or copies of it, agree about."""
    return b'"%x-%x"' % (archive.modified_ns, archive.size)


@implementer(IPullProducer)
class Transmission:
    """
    Sends the bytes of one open file, a chunk at a time, as fast as the client takes them.

    Owns the descriptor. Either all bytes are sent, or the connection is cut: the client never takes
    a file that shrank under way for a whole one.
    """

    _log = Logger()

    def __init__(self, request: Request, fd: int, size: int) -> None:
        self._request = request
        self._fd = fd
        self._offset = 0
        self._size = size

    def start(self) -> None:
        """Send; the request finishes, or its connection is lost."""
        # Asked for later, it may never fire.
        self._request.notifyFinish().addBoth(self._finished)
        # Twisted's own idle timeout ends with the request's arrival.
        self._request.channel.setTimeout(_STALLED)
        self._request.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """Send the next chunk: the client has taken the last one."""
        self._request.channel.resetTimeout()
        wanted = min(_CHUNK, self._size - self._offset)
        try:
            chunk = os.pread(self._fd, wanted, self._offset)
        except OSError as error:
            self._cut(str(error))
            return
        if not chunk:
            self._cut("the file became shorter while it was sent")
            return
        self._offset += len(chunk)
        self._request.write(chunk)
        if self._offset == self._size:
            self._request.unregisterProducer()
            self._request.finish()

    def stopProducing(self) -> None:
        """The client is gone: `notifyFinish` tells of that too."""

    def _cut(self, reason: str) -> None:
        self._log.error("download of {uri} cut: {reason}", uri=self._request.uri, reason=reason)
        self._request.unregisterProducer()
        self._request.loseConnection()

    def _finished(self, _: object) -> None:
        os.close(self._fd)
