"""Completes the part file of an archive: copies the missing bytes, or requests them."""

import os

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web import http
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse

from opq_twisted.archive.delta import Copy, Fetch
from opq_twisted.archive.sizes import RESERVE
from opq_twisted.box.download.assembly import Assembly
from opq_twisted.box.download.part_file import Part
from opq_twisted.box.download.progress import ProgressMeter
from opq_twisted.box.download.verify import Content
from opq_twisted.box.network.body import BrokenOff, TooLong, discard, read_body
from opq_twisted.box.network.headers import (
    ContentRange,
    content_range,
    is_html,
    repr_digests,
    strong_etag,
)
from opq_twisted.box.network.update_server import (
    UpdateServerClient,
    is_temporary,
    unexpected_status,
)
from opq_twisted.box.state.status import Progress
from opq_twisted.common import wording
from opq_twisted.common.errors import NoRoom, OpqError, ServerFailed, WrongContent

#: Bytes of a piece that are copied at once: syncs take place between them.
_COPIED_AT_ONCE = 64 << 10

#: How many pieces before a range it is requested: some 5 MB, which a box copies in the time that a
#: response takes. If it were requested long before, a proxy might close the connection.
_REQUESTED_AHEAD = 32


@define
class Transfer:
    """
    One download of an archive, which may need several attempts.

    Most methods return the error after which another attempt may help, and raise all others.
    """

    _clock: IReactorTime
    _server: UpdateServerClient
    _url: str
    _expected: Content
    part: Part
    #: Bytes; a larger file is refused.
    _limit: int
    meter: ProgressMeter
    #: The pieces that are here; None to download everything.
    _assembly: Assembly | None

    async def attempt(self, is_last: bool = False) -> OpqError | None:
        """
        Get the missing bytes: copy those that are here, and request the others.

        :param is_last: whether the download is given up if this attempt brings nothing.
        :returns: the error that ended the attempt; None if the file is complete.
        """
        if self.part.missing == 0:
            return None
        if is_last and self._expected.hashes:
            # Some networks and servers let the complete file through, but no ranges.
            return await self._request(None, complete=True)
        if self._assembly is None:
            return await self._request(None)
        self._require_room(self.part.missing)
        while self.part.missing:
            if (error := await self._assemble(self._assembly)) is not None:
                return error
        return None

    async def _assemble(self, assembly: Assembly) -> OpqError | None:
        """Copy the pieces up to the next range, and receive that range."""
        copies, fetch = assembly.delta.next_from(self.part.size)
        pending: Deferred[IResponse] | None = None
        try:
            for left, copy in zip(range(len(copies), 0, -1), copies, strict=True):
                if fetch and pending is None and left <= _REQUESTED_AHEAD and assembly.is_intact:
                    # The response comes while the last pieces are copied.
                    pending = self._send_request(self._range_headers(fetch, fetch.start))
                if not await self._copy(assembly, copy):
                    return None
            if pending is None:
                return await self._request(fetch) if fetch else None
            response, pending = pending, None
            return await self._receive_response(response, fetch, is_range=True)
        finally:
            if pending is not None:
                self._cancel_request(pending)

    async def _copy(self, assembly: Assembly, step: Copy) -> bool:
        """Copy the rest of a piece; False if it has rotted: then another step fetches it."""
        since = self._clock.seconds()
        data = await assembly.read(step)
        if data is None:
            # A piece of which only the beginning was copied counts as fetched.
            self.part.copied = assembly.delta.copied_before(self.part.size)
            return False
        rest = memoryview(data)[self.part.size - step.start :]
        while rest:
            chunk, rest = rest[:_COPIED_AT_ONCE], rest[_COPIED_AT_ONCE:]
            self._require_room(len(chunk))
            self.part.write(chunk)
            self.part.copied += len(chunk)
            if self.part.sync_due:
                await self.part.sync()
            now = self._clock.seconds()
            self.meter.exclude_copying(now - since)
            since = now
            self._count(0)
        return True

    async def _request(self, fetch: Fetch | None, complete: bool = False) -> OpqError | None:
        """
        Request the missing bytes of a range, and receive them.

        :param fetch: None for everything that is missing.
        :param complete: request the complete file, because the server does not send the rest alone.
        """
        self._require_room(self.part.missing)
        headers = {} if complete else self._range_headers(fetch, self.part.size)
        return await self._receive_response(
            self._send_request(headers), fetch, is_range=bool(headers)
        )

    def _send_request(self, headers: dict[str, str]) -> Deferred[IResponse]:
        return Deferred.fromCoroutine(self._server.get_archive(self._url, headers))

    def _cancel_request(self, pending: Deferred[IResponse]) -> None:
        """Cancel a request, or discard its response."""
        pending.addCallbacks(lambda response: discard(self._clock, response), lambda _: None)
        pending.cancel()

    async def _receive_response(
        self, pending: Deferred[IResponse], fetch: Fetch | None, is_range: bool
    ) -> OpqError | None:
        """
        Wait for a response, and receive its body if it is of use.

        :param fetch: the requested range; None for everything that is missing.
        :param is_range: whether the request had a `Range`.
        """
        try:
            response = await pending
        except ServerFailed as error:
            return error
        if response.code == http.OK:
            return await self._receive_complete(response)
        if not is_range or response.code not in (
            http.PARTIAL_CONTENT,
            http.REQUESTED_RANGE_NOT_SATISFIABLE,
        ):
            return self._unexpected_status(response)
        if self._is_requested_rest(response):
            if self._expected.hashes:
                self._join(response)
            if fetch and _goes_beyond(response, fetch):
                self._abandon_delta()
                fetch = None
            return await self._receive_body(response, end=fetch.end if fetch else None)
        discard(self._clock, response)
        if self._shows_complete(response):
            return None
        found = content_range(response)
        total, expected = found and found.total, self._expected.size
        if None not in (total, expected) and total != expected:
            return self._wrong_response(f"a file of {total} bytes")
        if not self._expected.hashes:
            # The part file cannot be continued without a validator.
            self.part.remove()
        return await self._request(None, complete=True)

    def _abandon_delta(self) -> None:
        """Download everything that is still missing."""
        if self._assembly is not None:
            self._assembly.abandon(self.part.size)
            # A piece of which only the beginning was copied counts as fetched.
            self.part.copied = self._assembly.delta.copied

    def _range_headers(self, fetch: Fetch | None, start: int) -> dict[str, str]:
        """Return the headers to request a range from an offset on; none for the complete file."""
        part = self.part
        if fetch is None and not part.can_continue:
            return {}
        end = fetch.end - 1 if fetch and fetch.end != part.content.size else ""
        if start == 0 and end == "":
            return {}
        headers = {"Range": f"bytes={start}-{end}"}
        if part.etag is not None and not self._expected.hashes:
            headers["If-Range"] = part.etag
        return headers

    async def _receive_complete(self, response: IResponse) -> OpqError | None:
        """Receive the complete file; with expected hashes, keep the bytes that are here already."""
        size = None if response.length is UNKNOWN_LENGTH else int(response.length)
        if self._is_not_from_server(response, size):
            discard(self._clock, response)
            return self._wrong_response("a web page" if size is None else f"{size} bytes")
        self._abandon_delta()
        if self.part.size and self._expected.hashes:
            # Starting again would lose these bytes if the response turned out to be another file,
            # or broke off earlier.
            self._join(response)
            return await self._receive_body(response, skip=self.part.size)
        try:
            self._begin(response, size)
        except (OpqError, OSError):
            discard(self._clock, response)
            raise
        return await self._receive_body(response)

    def _join(self, response: IResponse) -> None:
        try:
            self.part.join()
        except OSError:
            discard(self._clock, response)
            raise

    def _is_not_from_server(self, response: IResponse, size: int | None) -> bool:
        """Whether the response comes from something between the box and the server."""
        if size is not None and self._expected.size is not None:
            return size != self._expected.size
        return is_html(response)

    def _wrong_response(self, received: str) -> ServerFailed:
        size = self._expected.size
        expected = "an archive" if size is None else f"{size} bytes"
        return ServerFailed(
            f"The server sent {received} instead of {expected}: another archive, or the login page "
            "of a network."
        )

    def _begin(self, response: IResponse, size: int | None) -> None:
        """Start a new part file for a response with the complete file."""
        require_allowed(size, self._limit)
        size = self._expected.size if size is None else size
        self.part.remove()
        self._require_room(size)
        hashes = self._expected.hashes or repr_digests(response)
        self.part.begin(Content(size, hashes), strong_etag(response))

    def _is_requested_rest(self, response: IResponse) -> bool:
        """Whether the response is the requested rest: some servers ignore If-Range."""
        part, found = self.part, content_range(response)
        if response.code != http.PARTIAL_CONTENT or found is None or found.start != part.size:
            return False
        etag = strong_etag(response)
        if not self._expected.hashes and None not in (part.etag, etag) and part.etag != etag:
            return False
        if part.content.size is None and found.total is not None and found.total <= self._limit:
            part.set_total(found.total)
        return found.total in (None, part.content.size)

    def _shows_complete(self, response: IResponse) -> bool:
        """Whether the server has no more bytes because the part file is complete."""
        part, found = self.part, content_range(response)
        return (
            response.code == http.REQUESTED_RANGE_NOT_SATISFIABLE
            and part.content.size is None
            and found == ContentRange(None, None, part.size)
        )

    def _unexpected_status(self, response: IResponse) -> ServerFailed:
        discard(self._clock, response)
        if not is_temporary(response):
            self._abandon_delta()
        error = unexpected_status(response, self._url)
        if response.code in (http.NOT_FOUND, http.GONE):
            raise error
        return error

    async def _receive_body(
        self, response: IResponse, skip: int = 0, end: int | None = None
    ) -> OpqError | None:
        """
        Append the body of a response, without its first `skip` bytes, to the part file.

        :param end: the size of the part file then; None for the size of the complete file.
        """
        part = self.part
        size_before = part.size
        end = part.content.size if end is None else end
        limit = self._limit if end is None else end
        to_skip = skip

        def receive(data: bytes) -> Deferred[None] | None:
            nonlocal to_skip
            skipped = min(to_skip, len(data))
            to_skip -= skipped
            if skipped:
                # The bytes are not new, but the download is not slow either.
                self._count(skipped)
            return self._receive(data[skipped:]) if len(data) > skipped else None

        try:
            received = await read_body(self._clock, response, receive, limit - size_before + skip)
        except BrokenOff as error:
            return error
        except TooLong:
            if not self._expected.hashes:
                part.remove()
                raise
            part.truncate(size_before)
            self._abandon_delta()
            return self._wrong_response(f"more than {limit} bytes")
        is_complete = end is None or part.size == end
        if not is_complete and response.code == http.OK and response.length is UNKNOWN_LENGTH:
            # The response ended without any sign of a broken connection, so it is another file.
            part.truncate(size_before)
            return self._wrong_response(f"{received} bytes")
        if not is_complete:
            return BrokenOff(f"The connection broke after {part.size} bytes. Try again.")
        return None

    def _receive(self, data: bytes) -> Deferred[None] | None:
        # Check the room again: the size may be unknown, and other programs write to the disk.
        self._require_room(len(data))
        self.part.write(data)
        self._count(len(data))
        return self.part.sync() if self.part.sync_due else None

    def _count(self, received: int) -> None:
        part, assembly = self.part, self._assembly
        here = part.copied if assembly is None else assembly.delta.copied
        total = None if part.content.size is None else part.content.size - here
        progress = Progress(part.size - part.copied, total, 0.0, here)
        self.meter.count(received, progress, is_complete=part.missing == 0)

    def _require_room(self, size: int | None) -> None:
        disk = os.statvfs(self.part.folder)
        free = disk.f_bavail * disk.f_frsize
        needed = (size or 0) + RESERVE
        if free < needed:
            raise NoRoom(
                f"The download needs {wording.size(needed)} free under {self.part.folder}, and "
                f"there are {wording.size(free)}. Make room, and try again."
            )


def _goes_beyond(response: IResponse, fetch: Fetch) -> bool:
    """Whether the server ignores the end of the range, and sends everything from its beginning."""
    found = content_range(response)
    return found is not None and found.last is not None and found.last >= fetch.end


def require_allowed(size: int | None, limit: int) -> None:
    """Raise `WrongContent` if an archive of this size is too large; None if it is unknown."""
    if size is not None and size > limit:
        raise WrongContent(f"The archive has {size} bytes; at most {limit} are allowed.")
