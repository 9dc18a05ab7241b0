"""Downloads a URL to a file, over as many connections as needed, or only what is not here yet."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.web import http
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse

from opq_twisted.archive.delta import Copy, Fetch
from opq_twisted.archive.extract.unpack import RESERVE
from opq_twisted.box.download.assembly import Assembly
from opq_twisted.box.download.part_file import Part
from opq_twisted.box.download.progress import ProgressMeter, ReportProgress
from opq_twisted.box.download.verify import Content, InThread
from opq_twisted.box.network.body import MAX_DURATION, BrokenOff, TooLong, discard, read_body
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
from opq_twisted.common.errors import DownloadFailed, NoRoom, OpqError, ServerFailed

#: Seconds between attempts in a row without a new byte; after the last of them the download fails.
RETRY_DELAYS = (1.0, 2.0, 4.0, 10.0, 30.0)

#: Seconds: a longer `Retry-After` is not waited for. The update fails then, and the scheduler tries
#: again after that time.
_MAX_DELAY = 600.0

#: Seconds without a new byte after which a server that keeps sending `Retry-After` is given up.
_MAX_DELAYS_TOTAL = 3600.0

#: Bytes of a piece that are copied at once: syncs take place between them.
_COPIED_AT_ONCE = 64 << 10

#: Is called with a sentence about each pause.
ReportPause = Callable[[str], object]


async def fetch(
    clock: IReactorTime,
    server: UpdateServerClient,
    url: str,
    expected: Content,
    path: Path,
    limit: int,
    report: ReportProgress = lambda progress: None,
    report_pause: ReportPause = lambda sentence: None,
    in_thread: InThread = deferToThread,
    assembly: Assembly | None = None,
) -> tuple[Content, int]:
    """
    Download a URL to a file, without verifying it.

    After a broken connection, the rest is requested over another one (RFC 9110, section 14). The
    response of a busy server, or the login page of a network, is also followed by another attempt,
    before the first byte as well as after it. When the download fails or is cancelled, the received
    bytes stay in the file, with a record beside it, and the next call continues there.

    A file with expected hashes may be joined from the responses of any servers: the hashes prove in
    the end that they fit. Without hashes, a response is joined only while the server's strong
    validator stays the same (RFC 9110, section 13.1.5).

    With an assembly, pieces of the last good archive are copied to the file, and only the ranges
    between them are requested. If anything is odd, everything that is still missing is downloaded.

    :param expected: the signed size and hashes; the server's own are ignored where these are given.
    :param path: of the part file; a part of any other file is removed.
    :param limit: bytes; a larger file is refused.
    :param report: is called with the progress, at most 4 times a second.
    :param report_pause: is called with a sentence about each pause: why, and for how long.
    :param assembly: the pieces that are here; `expected` is its content then.
    :returns: the expected size and hashes, completed by those that the server promised, and the
        number of the file's bytes that travelled.
    :raises ServerFailed: if the server does not send the file.
    :raises DownloadFailed: if the file does not arrive completely, arrives too slowly, is too
        large, or cannot be verified.
    :raises NoRoom: if the disk has no room for it; the received bytes are removed.
    :raises OSError: if the disk is full or fails; the received bytes are removed.
    """
    expected.require_computable()
    _require_allowed(expected.size, limit)
    part = Part(path, url, expected, in_thread)
    try:
        try:
            part.resume()
            if assembly is not None:
                if not part.size:
                    part.begin(expected, None)
                part.join()
                part.copied = assembly.delta.copied_before(part.size)
            meter = ProgressMeter(clock, report)
            run = _Download(
                clock,
                server,
                url,
                expected,
                part,
                path.parent,
                limit,
                meter,
                report_pause,
                assembly,
            ).run()
            await Deferred.fromCoroutine(run).addTimeout(MAX_DURATION, clock, _timed_out)
        except NoRoom:
            part.remove()
            raise
        finally:
            part.close()
    except OSError:
        part.remove()
        raise
    return part.content, part.size - part.copied


@define
class _Download:
    _clock: IReactorTime
    _server: UpdateServerClient
    _url: str
    _expected: Content
    _part: Part
    _folder: Path
    _limit: int
    _meter: ProgressMeter
    _report_pause: ReportPause
    _assembly: Assembly | None

    async def run(self) -> None:
        """Make attempts until the file is complete, or too many in a row bring no new byte."""
        fruitless, without_retry_after, largest = 0, 0, self._part.size
        last_success = self._clock.seconds()
        while (error := await self._attempt()) is not None:
            retry_after: float | None = getattr(error, "retry_after", None)
            if self._part.size > largest:
                fruitless, without_retry_after, largest = 0, 0, self._part.size
                last_success = self._clock.seconds()
            else:
                fruitless += 1
                without_retry_after += retry_after is None
            delay = max(RETRY_DELAYS[min(fruitless, len(RETRY_DELAYS) - 1)], retry_after or 0.0)
            waited = self._clock.seconds() - last_success
            if (
                without_retry_after == len(RETRY_DELAYS)
                or delay > _MAX_DELAY
                or waited + delay > _MAX_DELAYS_TOTAL
            ):
                if isinstance(error, BrokenOff):
                    error = DownloadFailed(
                        "The connection broke again and again, and nothing came after the first "
                        f"{largest} bytes. Try again later."
                    )
                raise error
            sentence = str(error).removesuffix(" Try again.").removesuffix(" Try again later.")
            self._report_pause(f"{sentence} The box asks again in {wording.duration(delay)}.")
            await deferLater(self._clock, delay)
            if retry_after is not None:
                self._meter.ignore(delay)
        if self._part.size:
            await self._part.sync()

    async def _attempt(self) -> OpqError | None:
        """
        Get the missing bytes: copy those that are here, and request the others.

        :returns: the error that ended the attempt; None if the file is complete.
        """
        self._require_room(self._part.missing)
        if self._assembly is None:
            return await self._request(None) if self._part.missing != 0 else None
        while self._part.missing:
            step = self._assembly.delta.step_at(self._part.size)
            if isinstance(step, Copy):
                await self._copy(self._assembly, step)
            elif (error := await self._request(step)) is not None:
                return error
        return None

    async def _copy(self, assembly: Assembly, step: Copy) -> None:
        """Copy the rest of a piece, unless the last good archive does not have it any more."""
        data = await assembly.read(step)
        rest = memoryview(data or b"")[self._part.size - step.start :]
        while rest:
            chunk, rest = rest[:_COPIED_AT_ONCE], rest[_COPIED_AT_ONCE:]
            self._require_room(len(chunk))
            self._part.write(chunk)
            self._part.copied += len(chunk)
            self._count(copied=len(chunk))
            if self._part.sync_due:
                await self._part.sync()

    async def _request(self, fetch: Fetch | None, complete: bool = False) -> OpqError | None:
        """
        Request the missing bytes of a range, and receive them.

        :param fetch: None for everything that is missing.
        :param complete: request the complete file, because the server does not send the rest alone.
        """
        part = self._part
        headers = {} if complete else self._range_headers(fetch)
        try:
            response = await self._server.get_archive(self._url, headers)
        except ServerFailed as error:
            return error
        if response.code == http.OK:
            return await self._receive_complete(response)
        if "Range" not in headers or response.code not in (
            http.PARTIAL_CONTENT,
            http.REQUESTED_RANGE_NOT_SATISFIABLE,
        ):
            return self._unexpected_status(response)
        if self._is_requested_rest(response):
            if self._expected.hashes:
                self._join(response)
            found = content_range(response)
            if fetch and found and found.last is not None and found.last >= fetch.end:
                # The server ignores the end of a range, and sends everything that is missing.
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
            part.remove()
        return await self._request(None, complete=True)

    def _abandon_delta(self) -> None:
        """Download everything that is still missing."""
        if self._assembly is not None:
            self._assembly.abandon(self._part.size)
            self._part.copied = self._assembly.delta.copied

    def _range_headers(self, fetch: Fetch | None) -> dict[str, str]:
        part = self._part
        if fetch is not None and fetch.end != part.content.size:
            return {"Range": f"bytes={part.size}-{fetch.end - 1}"}
        if not part.can_continue:
            return {}
        headers = {"Range": f"bytes={part.size}-"}
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
        if self._part.size and self._expected.hashes:
            # Starting again would lose these bytes if the response turned out to be another file,
            # or broke off earlier.
            self._join(response)
            return await self._receive_body(response, skip=self._part.size)
        try:
            self._begin(response, size)
        except (OpqError, OSError):
            discard(self._clock, response)
            raise
        return await self._receive_body(response)

    def _join(self, response: IResponse) -> None:
        try:
            self._part.join()
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
        _require_allowed(size, self._limit)
        size = self._expected.size if size is None else size
        self._part.remove()
        self._require_room(size)
        hashes = self._expected.hashes or repr_digests(response)
        self._part.begin(Content(size, hashes), strong_etag(response))

    def _is_requested_rest(self, response: IResponse) -> bool:
        """Whether the response is the requested rest: some servers ignore If-Range."""
        part, found = self._part, content_range(response)
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
        part, found = self._part, content_range(response)
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
        part = self._part
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
                self._count(received=skipped)
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
        self._part.write(data)
        self._count(received=len(data))
        return self._part.sync() if self._part.sync_due else None

    def _count(self, received: int = 0, copied: int = 0) -> None:
        part, assembly = self._part, self._assembly
        here = part.copied if assembly is None else assembly.delta.copied
        total = None if part.content.size is None else part.content.size - here
        progress = Progress(part.size - part.copied, total, 0.0, here)
        self._meter.count(received, copied, progress, is_complete=part.missing == 0)

    def _require_room(self, size: int | None) -> None:
        disk = os.statvfs(self._folder)
        free = disk.f_bavail * disk.f_frsize
        needed = (size or 0) + RESERVE
        if free < needed:
            raise NoRoom(
                f"The download needs {wording.size(needed)} free under {self._folder}, and there "
                f"are {wording.size(free)}. Make room, and try again."
            )


def _require_allowed(size: int | None, limit: int) -> None:
    if size is not None and size > limit:
        raise DownloadFailed(f"The archive has {size} bytes; at most {limit} are allowed.")


def _timed_out(_: object, timeout: float) -> NoReturn:
    raise DownloadFailed(f"The download took more than {timeout / 3600:.0f} hours.")
