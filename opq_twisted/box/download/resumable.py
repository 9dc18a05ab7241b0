"""Fetches what is at a URL into a file, over as many connections as it takes."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.web import http
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse

from opq_twisted.archive.extract.unpack import RESERVE
from opq_twisted.box.download.part_file import Part
from opq_twisted.box.download.progress import ProgressMeter, ReportProgress
from opq_twisted.box.download.verify import Content, InThread
from opq_twisted.box.network.body import (
    MAX_DURATION,
    BrokenOff,
    Receive,
    TooLong,
    discard,
    read_body,
)
from opq_twisted.box.network.headers import (
    ContentRange,
    content_range,
    is_html,
    repr_digests,
    strong_etag,
)
from opq_twisted.box.network.update_server import UpdateServerClient, unexpected_status
from opq_twisted.common import wording
from opq_twisted.common.errors import DownloadFailed, NoRoom, OpqError, ServerFailed

#: Seconds between the attempts in a row that bring nothing new; after as many it is given up.
RETRY_DELAYS = (1.0, 2.0, 4.0, 10.0, 30.0)

#: Seconds: a server that asks for more patience with `Retry-After` is not waited for. The update
#: fails then, and the box comes back when that time is over.
_LONGEST_PAUSE = 600.0

#: Seconds without a new byte after which a server that asks for patience gets no more of it.
_LONGEST_WAIT = 3600.0

#: Is told in a sentence why a download pauses.
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
) -> Content:
    """
    Download what is at a URL to a file, which is on the disk then, not yet verified.

    A connection that breaks is followed by another, for the rest (RFC 9110, section 14). So is an
    answer of a busy server, and one of somebody else, as the page of a network that wants people to
    log in: before the first byte as well as after. What has come when that is given up, or
    cancelled, is kept with a record beside it, and the next call goes on there.

    What is expected with hashes may come in pieces from anywhere: in the end the hashes tell
    whether they fit. Without hashes a piece is only put to another if the server's strong validator
    (RFC 9110, section 13.1.5) is still the same.

    :param expected: what nothing that the server says can change.
    :param path: of the file; a part of anything else is removed.
    :param limit: bytes; more are not taken.
    :param report: told of the progress, at most 4 times a second.
    :param report_pause: told in a sentence why it pauses, and for how long.
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
            meter = ProgressMeter(clock, report)
            run = _Fetch(
                clock, server, url, expected, part, path.parent, limit, meter, report_pause
            ).run()
            await Deferred.fromCoroutine(run).addTimeout(MAX_DURATION, clock, _too_late)
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
    _server: UpdateServerClient
    _url: str
    _expected: Content
    _part: Part
    _folder: Path
    _limit: int
    _meter: ProgressMeter
    _report_pause: ReportPause

    async def run(self) -> None:
        """Make attempts until all of it is here, or too many of them bring nothing."""
        fruitless, unexplained, furthest = 0, 0, self._part.size
        since = self._clock.seconds()
        while (error := await self._attempt()) is not None:
            asked: float | None = getattr(error, "retry_after", None)
            if self._part.size > furthest:
                fruitless, unexplained, furthest = 0, 0, self._part.size
                since = self._clock.seconds()
            else:
                fruitless += 1
                unexplained += asked is None
            pause = max(RETRY_DELAYS[min(fruitless, len(RETRY_DELAYS) - 1)], asked or 0.0)
            waited = self._clock.seconds() - since
            if (
                unexplained == len(RETRY_DELAYS)
                or pause > _LONGEST_PAUSE
                or waited + pause > _LONGEST_WAIT
            ):
                raise _given_up(error, furthest)
            self._report_pause(_pausing(error, pause))
            await deferLater(self._clock, pause)
            if asked is not None:
                self._meter.skip(pause)
        if self._part.size:
            await self._part.sync()

    async def _attempt(self, in_one_piece: bool = False) -> OpqError | None:
        """
        Ask for what is missing.

        :param in_one_piece: whether the server is asked for all of it, because it does not send the
            rest alone.
        :returns: what broke it off; None when all of it is here.
        """
        part = self._part
        if part.missing == 0:
            return None
        self._require_room(part.missing)
        headers = {} if in_one_piece else self._conditions()
        try:
            response = await self._server.get_archive(self._url, headers)
        except ServerFailed as error:
            return error
        if response.code == http.OK:
            return await self._take_whole(response)
        if "Range" not in headers or response.code not in (
            http.PARTIAL_CONTENT,
            http.REQUESTED_RANGE_NOT_SATISFIABLE,
        ):
            return self._refused(response)
        if self._continues(response):
            if self._expected.hashes:
                self._join(response)
            return await self._take(response)
        discard(self._clock, response)
        if self._is_all_of(response):
            return None
        found = content_range(response)
        if found is not None and self._is_another_size(found.total):
            return self._not_it(f"a file of {found.total} bytes")
        if not self._expected.hashes:
            # There is nothing left to be continued.
            part.drop()
        return await self._attempt(in_one_piece=True)

    def _conditions(self) -> dict[str, str]:
        if not self._part.can_continue:
            return {}
        headers = {"Range": f"bytes={self._part.size}-"}
        if self._part.etag is not None and not self._expected.hashes:
            headers["If-Range"] = self._part.etag
        return headers

    async def _take_whole(self, response: IResponse) -> OpqError | None:
        """Take an answer that is the whole; where hashes decide, only what is missing of it."""
        size = None if response.length is UNKNOWN_LENGTH else int(response.length)
        if self._is_somebody_elses(response, size):
            discard(self._clock, response)
            return self._not_it("a web page" if size is None else f"{size} bytes")
        if self._part.size and self._expected.hashes:
            # Perhaps it is something else after all, or breaks off sooner than what is here ends:
            # that must not be lost.
            self._join(response)
            return await self._take(response, passing_over=self._part.size)
        try:
            self._begin(response, size)
        except (OpqError, OSError):
            discard(self._clock, response)
            raise
        return await self._take(response)

    def _join(self, response: IResponse) -> None:
        try:
            self._part.join()
        except OSError:
            discard(self._clock, response)
            raise

    def _is_somebody_elses(self, response: IResponse, size: int | None) -> bool:
        """Whether an answer comes from something between the box and the server."""
        if size is not None and self._expected.size is not None:
            return size != self._expected.size
        return is_html(response)

    def _is_another_size(self, size: int | None) -> bool:
        return None not in (size, self._expected.size) and size != self._expected.size

    def _not_it(self, what: str) -> ServerFailed:
        expected = self._expected.size
        wanted = "an archive is" if expected is None else f"{expected} bytes are"
        return ServerFailed(
            f"There came {what} where {wanted} expected: another archive, or the page of a network "
            "that wants people to log in."
        )

    def _begin(self, response: IResponse, size: int | None) -> None:
        """Begin anew with an answer that is the whole."""
        _require_allowed(size, self._limit)
        size = self._expected.size if size is None else size
        self._part.drop()
        self._require_room(size)
        hashes = self._expected.hashes or repr_digests(response)
        self._part.begin(Content(size, hashes), strong_etag(response))

    def _continues(self, response: IResponse) -> bool:
        """Whether an answer is the rest that was asked for: some servers ignore If-Range."""
        part, found = self._part, content_range(response)
        if response.code != http.PARTIAL_CONTENT or found is None or found.start != part.size:
            return False
        etag = strong_etag(response)
        if not self._expected.hashes and None not in (part.etag, etag) and part.etag != etag:
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
        discard(self._clock, response)
        error = unexpected_status(response, self._url)
        if response.code in (http.NOT_FOUND, http.GONE):
            raise error
        return error

    async def _take(self, response: IResponse, passing_over: int = 0) -> OpqError | None:
        """
        Take the body of an answer.

        :param passing_over: bytes at its beginning that are here already.
        """
        part = self._part
        begun = part.size
        most = self._limit if part.content.size is None else part.content.size
        receive = _PassOver(passing_over, self._passed_over, self._receive)
        try:
            await read_body(self._clock, response, receive, most - begun + passing_over)
        except BrokenOff as error:
            return error
        except TooLong:
            if not self._expected.hashes:
                part.drop()
                raise
            part.cut_back(begun)
            return self._not_it(f"more than {most} bytes")
        if part.missing and response.code == http.OK and response.length is UNKNOWN_LENGTH:
            # It ended, and nothing shows that it was broken off: it is something else.
            part.cut_back(begun)
            return self._not_it(f"{receive.taken} bytes")
        if part.missing:
            return BrokenOff(f"The connection broke after {part.size} bytes. Try again.")
        return None

    def _passed_over(self, size: int) -> None:
        # They bring nothing new, but are not slow.
        self._meter.count(size, self._part.size, self._part.content.size)

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
                f"The download needs {wording.size(needed)} free under {self._folder}, and there "
                f"are {wording.size(free)}. Make room, and try again."
            )


class _PassOver:
    """Hands on what is received; of the first bytes only how many have come."""

    def __init__(self, left: int, passed_over: Callable[[int], object], receive: Receive) -> None:
        self._left = left
        self._passed_over = passed_over
        self._receive = receive
        #: Bytes that came, with those that were passed over.
        self.taken = 0

    def __call__(self, data: bytes) -> Deferred[None] | None:
        self.taken += len(data)
        passed = min(self._left, len(data))
        self._left -= passed
        if passed:
            self._passed_over(passed)
        return self._receive(data[passed:]) if len(data) > passed else None


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


def _pausing(error: OpqError, pause: float) -> str:
    """Say why a download pauses, and for how long."""
    sentence = str(error).removesuffix(" Try again.").removesuffix(" Try again later.")
    return f"{sentence} The box asks again in {_in_words(pause)}."


def _in_words(seconds: float) -> str:
    if seconds >= 120:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds:.0f} second{'s' * (seconds != 1)}"


def _too_late(_: object, timeout: float) -> NoReturn:
    raise DownloadFailed(f"The download took more than {timeout / 3600:.0f} hours.")
