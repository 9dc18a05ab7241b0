"""Fetches what is at a URL into a file, over as many connections as it takes."""

import os
from pathlib import Path
from typing import NoReturn

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.web import http
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse

from opq_twisted.box.answer import ContentRange, announced_hashes, content_range, strong_etag
from opq_twisted.box.body import DURATION, BrokenOff, TooLong, hang_up, take
from opq_twisted.box.client import UpdateServer, refused
from opq_twisted.box.content import Content, InThread
from opq_twisted.box.meter import Meter, Report
from opq_twisted.box.partial import Part
from opq_twisted.errors import DownloadFailed, NoRoom, OpqError, ServerFailed
from opq_twisted.release.unpack import RESERVE

#: Seconds between the attempts in a row that bring nothing new; after as many it is given up.
PAUSES = (1.0, 2.0, 4.0, 10.0, 30.0)

#: Seconds: a server that asks for more patience is not waited for any longer.
_LONGEST_PAUSE = 60.0


async def fetch(
    clock: IReactorTime,
    server: UpdateServer,
    url: str,
    expected: Content,
    path: Path,
    limit: int,
    report: Report = lambda progress: None,
    in_thread: InThread = deferToThread,
) -> Content:
    """
    Download what is at a URL to a file, which is on the disk then, not yet verified.

    A connection that breaks is followed by another, for the rest (RFC 9110, section 14). What has
    come when that is given up, or cancelled, is kept with a record beside it, and the next call
    goes on there: when it expects the same hashes, or when it expects none and the server's strong
    validator (RFC 9110, section 13.1.5) is still the same.

    :param expected: what nothing that the server says can change.
    :param path: of the file; a part of anything else is removed.
    :param limit: bytes; more are not taken.
    :param report: told of the progress, at most 4 times a second.
    :returns: what is expected, or else promised by the server.
    :raises ServerFailed: when the server does not send it.
    :raises DownloadFailed: when it does not come whole, comes too slowly, is larger than it may
        be, or cannot be verified.
    :raises NoRoom: when the disk has no room for it; what came of it is removed.
    :raises OSError: when the disk fails, or is full; what came of it is removed.
    """
    expected.require_computable()
    _require_allowed(expected.size, limit)
    part = Part(path, url, expected, in_thread)
    try:
        try:
            part.resume()
            meter = Meter(clock, report)
            run = _Fetch(clock, server, url, expected, part, path.parent, limit, meter).run()
            await Deferred.fromCoroutine(run).addTimeout(DURATION, clock, _too_late)
        except NoRoom:
            part.drop()
            raise
        finally:
            part.close()
    except OSError:
        part.drop()
        raise
    return part.content


@frozen
class _Fetch:
    _clock: IReactorTime
    _server: UpdateServer
    _url: str
    _expected: Content
    _part: Part
    _folder: Path
    _limit: int
    _meter: Meter

    async def run(self) -> None:
        """Make attempts until all of it is here, or too many of them bring nothing."""
        fruitless, furthest = 0, self._part.size
        while (error := await self._attempt()) is not None:
            if not self._meter.taken:
                # Whether the server is there at all is the caller's to find out.
                raise error
            fruitless = 0 if self._part.size > furthest else fruitless + 1
            furthest = max(furthest, self._part.size)
            if fruitless == len(PAUSES):
                raise _given_up(error, furthest)
            asked = min(getattr(error, "retry_after", None) or 0.0, _LONGEST_PAUSE)
            await deferLater(self._clock, max(PAUSES[fruitless], asked))
        if self._part.size:
            await self._part.sync()

    async def _attempt(self) -> OpqError | None:
        """
        Ask for what is missing.

        :returns: what broke it off; None when all of it is here.
        """
        part = self._part
        if part.missing == 0:
            return None
        self._require_room(part.missing)
        headers = self._conditions()
        try:
            response = await self._server.get_archive(self._url, headers)
        except ServerFailed as error:
            return error
        if response.code == http.OK:
            self._begin(response)
        elif "Range" not in headers or response.code not in (
            http.PARTIAL_CONTENT,
            http.REQUESTED_RANGE_NOT_SATISFIABLE,
        ):
            return self._refused(response)
        elif not self._continues(response):
            hang_up(self._clock, response)
            if self._is_all_of(response):
                return None
            part.drop()
            # There is nothing left to be continued: this time all of it is asked for.
            return await self._attempt()
        return await self._take(response)

    def _conditions(self) -> dict[str, str]:
        if not self._part.can_continue:
            return {}
        headers = {"Range": f"bytes={self._part.size}-"}
        if self._part.etag is not None:
            headers["If-Range"] = self._part.etag
        return headers

    def _begin(self, response: IResponse) -> None:
        """Begin anew with an answer that is the whole."""
        size = None if response.length is UNKNOWN_LENGTH else int(response.length)
        try:
            _require_allowed(size, self._limit)
            if None not in (size, self._expected.size) and size != self._expected.size:
                raise DownloadFailed(
                    f"The server has {size} bytes where {self._expected.size} are expected. "
                    "Try again later."
                )
            size = self._expected.size if size is None else size
            self._part.drop()
            self._require_room(size)
            hashes = self._expected.hashes or announced_hashes(response)
            self._part.begin(Content(size, hashes), strong_etag(response))
        except (OpqError, OSError):
            hang_up(self._clock, response)
            raise

    def _continues(self, response: IResponse) -> bool:
        """Whether an answer is the rest that was asked for: some servers ignore If-Range."""
        part, found = self._part, content_range(response)
        if response.code != http.PARTIAL_CONTENT or found is None or found.start != part.size:
            return False
        etag = strong_etag(response)
        if None not in (part.etag, etag) and part.etag != etag:
            return False
        if part.content.size is None and found.total is not None and found.total <= self._limit:
            part.learn_size(found.total)
        return found.total in (None, part.content.size)

    def _is_all_of(self, response: IResponse) -> bool:
        """Whether there is no rest because nothing is missing."""
        part, found = self._part, content_range(response)
        return (
            response.code == http.REQUESTED_RANGE_NOT_SATISFIABLE
            and part.content.size is None
            and found == ContentRange(None, part.size)
        )

    def _refused(self, response: IResponse) -> ServerFailed:
        hang_up(self._clock, response)
        error = refused(response, self._url)
        if response.code in (http.NOT_FOUND, http.GONE):
            raise error
        return error

    async def _take(self, response: IResponse) -> OpqError | None:
        part = self._part
        most = self._limit if part.content.size is None else part.content.size
        try:
            await take(self._clock, response, self._receive, most - part.size)
        except BrokenOff as error:
            return error
        except TooLong:
            part.drop()
            raise
        if part.missing:
            return BrokenOff(f"The connection broke after {part.size} bytes. Try again.")
        return None

    def _receive(self, data: bytes) -> Deferred[None] | None:
        # Not every server says how much it will send, and others write to the disk too.
        self._require_room(len(data))
        self._part.write(data)
        self._meter.count(len(data), self._part.size, self._part.content.size)
        return self._part.sync() if self._part.sync_due else None

    def _require_room(self, size: int | None) -> None:
        disk = os.statvfs(self._folder)
        free = disk.f_bavail * disk.f_frsize
        needed = (size or 0) + RESERVE
        if free < needed:
            raise NoRoom(
                f"The download needs {_megabytes(needed)} free under {self._folder}, and there are "
                f"{_megabytes(free)}. Make room, and try again."
            )


def _require_allowed(size: int | None, limit: int) -> None:
    if size is not None and size > limit:
        raise DownloadFailed(f"The archive has {size} bytes; at most {limit} are taken.")


def _given_up(error: OpqError, size: int) -> OpqError:
    if isinstance(error, BrokenOff):
        return DownloadFailed(
            f"The connection broke again and again, and nothing came after the first {size} bytes. "
            "Try again later."
        )
    return error


def _too_late(_: object, timeout: float) -> NoReturn:
    raise DownloadFailed(f"The download took more than {timeout / 3600:.0f} hours.")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
