"""`/log`: the output of the installer in the last attempt; it grows while that runs."""

import io
import os
from pathlib import Path

from twisted.web.http import (
    INTERNAL_SERVER_ERROR,
    OK,
    PARTIAL_CONTENT,
    REQUESTED_RANGE_NOT_SATISFIABLE,
)

from opq_twisted.common import files
from opq_twisted.http.ranges import Unsatisfiable, parse_ranges
from opq_twisted.http.reply import Reply, header_lines
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource

_HEADERS = {
    b"Content-Type": b"text/plain; charset=utf-8",
    b"X-Content-Type-Options": b"nosniff",
    b"Cache-Control": b"no-store",
    b"Accept-Ranges": b"bytes",
}


class InstallerLog(PlainResource):
    """The whole log, or one range of it: a client that follows the log asks for the new part."""

    isLeaf = True

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def render_GET(self, request: BoundedRequest) -> Reply | int:
        """Send the log with 200, or one range with 206 (RFC 9110, section 14)."""
        try:
            file = files.open_regular(self._path)
        except FileNotFoundError:
            # No update has run yet.
            return Reply.of(OK, headers={b"Accept-Ranges": b"bytes"})
        except files.NotRegular:
            return Reply.sentence(INTERNAL_SERVER_ERROR, "The installer's log is no file.")
        except OSError as error:
            return Reply.sentence(
                INTERNAL_SERVER_ERROR, f"The installer's log cannot be read: {error.strerror}."
            )
        request.notifyFinish().addBoth(lambda _: file.close())
        return self._send(request, file, os.fstat(file.fileno()).st_size)

    def _send(self, request: BoundedRequest, file: io.FileIO, size: int) -> Reply | int:
        offset, length, code, headers = 0, size, OK, dict(_HEADERS)
        wanted = request.getHeader(b"Range")
        # Several ranges get the whole log: multipart/byteranges is for archives only.
        if wanted is not None and request.method == b"GET":
            try:
                ranges = parse_ranges(wanted, size)
            except Unsatisfiable:
                return Reply.sentence(
                    REQUESTED_RANGE_NOT_SATISFIABLE,
                    f"The log has {size} bytes.",
                    {b"Content-Range": b"bytes */%d" % size},
                )
            if ranges is not None and len(ranges) == 1:
                [part] = ranges
                offset, length, code = part.offset, part.length, PARTIAL_CONTENT
                headers[b"Content-Range"] = part.content_range(size)
        headers[b"Content-Length"] = b"%d" % length
        return request.reply_from(
            code,
            header_lines(headers),
            lambda start, most: os.pread(file.fileno(), most, offset + start),
            length,
        )
