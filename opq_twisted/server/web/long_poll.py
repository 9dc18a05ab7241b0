"""`/version`: boxes ask for the newest version, and wait there for something new to act on."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http import NOT_FOUND, NOT_MODIFIED, OK, PRECONDITION_FAILED
from twisted.web.server import NOT_DONE_YET

from opq_twisted.http.conditional import evaluate, tags_known
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource
from opq_twisted.server.catalog.snapshot import Catalog
from opq_twisted.server.timestamp.state import MetadataState

#: Caches may store the response, but must ask the server before they use it.
REVALIDATE = {b"Cache-Control": b"no-cache"}

NO_UPDATE = (
    "There is no update yet. Put an opq-box-update-VERSION.tar.bz2 into the updates directory."
)

#: The maximum wait in seconds.
MAX_WAIT = 300

#: Requests that are answered in one turn of the reactor.
_TURN = 100

_WAIT = re.compile(rb"wait[ \t]*=[ \t]*(?:(\d+)|\"(\d+)\")", re.ASCII | re.IGNORECASE)

#: The entity tag while there is no version: boxes wait with it for the first one.
_NO_VERSION_TAG = b'"none"'
_NO_VERSION = Reply.sentence(NOT_FOUND, NO_UPDATE, {**REVALIDATE, b"ETag": _NO_VERSION_TAG})

#: The reply to a box that waits while there is no version, or while nothing is known yet.
_UNCHANGED = Reply.of(NOT_MODIFIED)

#: Used instead of the digest of the channels while the timestamp announces none.
_NOTHING_ANNOUNCED = "0"


class NewestVersion(PlainResource):
    """
    `/version`: the newest version, at once or as soon as a waiting box has something new to act on.

    Without signed metadata, boxes act on another newest version. With signed metadata, they act on
    a change of an announced channel: its release, rollout, priority, pace or notes, or that the
    channel appears or goes. So an archive that is not announced, and metadata that was only signed
    again, wake nobody.

    The entity tag is `"VERSION"`, or `"VERSION-DIGEST"` with a digest of the announced channels. A
    box that sends the current digest knows all that it can act on, whatever the version.
    """

    def __init__(self, clock: IReactorTime, catalog: Catalog, await_metadata: bool = False) -> None:
        """
        :param await_metadata: whether waiting requests are not answered early until the first
            `metadata_changed`; those whose wait ends before it get 304. Without this, boxes would
            take the metadata that a restarted server has not read yet for a change.
        """
        super().__init__()
        self._catalog = catalog
        #: The digest of the announced channels; empty if nothing is signed, None if not known yet.
        self._announced: str | None = None if await_metadata else ""
        self._etag = _NO_VERSION_TAG
        #: The reply for each result of `evaluate`; empty while there is no version.
        self._replies: Mapping[int | None, Reply] = {}
        #: The part of the entity tag that boxes act on; None if it is not known yet.
        self._news: str | None = None
        self.long_pollers = LongPollers(clock, self._reply_to_waiting)
        catalog.observers.append(lambda _: self._update())
        self._update()

    def render_GET(self, request: BoundedRequest) -> Reply | int:
        """Reply at once, or let a client wait that asks for it and knows the current news."""
        seconds = preferred_wait(request)
        if not seconds:
            return self._reply(request)
        reply = self._reply_to_waiting(request)
        if reply.code != NOT_MODIFIED:
            return reply
        self.long_pollers.add(request, seconds)
        return NOT_DONE_YET

    def metadata_changed(self, state: MetadataState) -> None:
        """Wake the waiting boxes if the timestamp announces something new."""
        if state.present:
            # While the timestamp is not usable, boxes act on the channels that they have seen.
            self._announced = state.announced or self._announced or _NOTHING_ANNOUNCED
        else:
            self._announced = ""
        self._update()

    def _update(self) -> None:
        """Make the replies, and wake the waiting boxes if they have something new to act on."""
        newest = self._catalog.snapshot.newest
        if newest is None:
            news, self._etag, self._replies = "none", _NO_VERSION_TAG, {}
        else:
            version = str(newest.name.version)
            news = self._announced or version
            tag = f"{version}-{self._announced}" if self._announced else version
            self._etag = f'"{tag}"'.encode()
            headers = {**REVALIDATE, b"ETag": self._etag}
            self._replies = {
                None: Reply.of(OK, version.encode(), headers=headers),
                NOT_MODIFIED: Reply.of(NOT_MODIFIED, headers=headers),
                PRECONDITION_FAILED: Reply.of(PRECONDITION_FAILED),
            }
        if self._announced is not None and news != self._news:
            self._news = news
            self.long_pollers.wake()

    def _reply(self, request: BoundedRequest) -> Reply:
        return self._replies[evaluate(request, self._etag)] if self._replies else _NO_VERSION

    def _reply_to_waiting(self, request: BoundedRequest) -> Reply:
        """Reply 304 to a box that knows, by its entity tag, all that it can act on."""
        if self._announced is None:
            return _UNCHANGED
        known = tags_known(request)
        reply = self._reply(request)
        if reply is _NO_VERSION:
            return _UNCHANGED if _NO_VERSION_TAG in known else _NO_VERSION
        if reply.code == OK and self._announced:
            end = f'-{self._announced}"'.encode()
            if any(tag.endswith(end) for tag in known):
                return self._replies[NOT_MODIFIED]
        return reply


@define(eq=False)
class LongPollers:
    """The requests that wait."""

    _clock: IReactorTime
    #: Makes the current reply to a request; 304 means no news.
    _reply: Callable[[BoundedRequest], Reply]
    #: The requests that wait, each with its maximum wait in seconds.
    _waiting: dict[BoundedRequest, int] = field(init=False, factory=dict)
    #: The requests to be answered, if there is news for them, in the next turns of the reactor.
    _woken: list[BoundedRequest] = field(init=False, factory=list)

    _log = Logger()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[BoundedRequest]:
        """Yield the requests that wait."""
        return iter(self._waiting)

    def add(self, request: BoundedRequest, seconds: int) -> None:
        """Let a request wait for `wake`, and for at most so many seconds."""
        self._waiting[request] = seconds
        # First, because the Deferred never fires if it is requested after the client has gone.
        request.notifyFinish().addErrback(lambda _gone: self._waiting.pop(request, None))
        request.channel.set_deadline(seconds, partial(self._time_over, request))

    def wake(self) -> None:
        """Answer the requests that wait now and have news, a hundred in each turn."""
        idle = not self._woken
        self._woken.extend(self._waiting)
        if idle and self._woken:
            self._clock.callLater(0, self._answer_some)

    def _answer_some(self) -> None:
        turn, self._woken = self._woken[:_TURN], self._woken[_TURN:]
        for request in turn:
            # The next request on the same connection is answered in this call. It may fail.
            with self._log.failuresHandled("the reply to a waiting box failed"):
                if request in self._waiting:
                    reply = self._reply(request)
                    if reply.code != NOT_MODIFIED:
                        self._answer(request, reply)
        if self._woken:
            self._clock.callLater(0, self._answer_some)

    def _time_over(self, request: BoundedRequest) -> None:
        if request in self._waiting:
            self._answer(request, self._reply(request))

    def _answer(self, request: BoundedRequest, reply: Reply) -> None:
        seconds = self._waiting.pop(request)
        request.setHeader(b"Preference-Applied", b"wait=%d" % seconds)
        request.reply(reply)


def preferred_wait(request: BoundedRequest) -> int:
    """
    Read how many seconds the client asks to wait (RFC 7240, section 4.3); 0 if it does not.

    The first `wait` counts (section 2).
    """
    for header in request.requestHeaders.getRawHeaders(b"Prefer", ()):
        for preference in header.split(b","):
            match = _WAIT.fullmatch(preference.split(b";")[0].strip(b" \t"))
            if match is not None:
                # Python does not convert numbers of thousands of digits.
                return min(MAX_WAIT, int((match[1] or match[2])[:20]))
    return 0
