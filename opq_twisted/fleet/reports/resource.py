"""`POST /report`: receives a report of a box, and answers after it is stored."""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http import (
    BAD_REQUEST,
    FORBIDDEN,
    INTERNAL_SERVER_ERROR,
    SERVICE_UNAVAILABLE,
    UNAUTHORIZED,
)
from twisted.web.server import NOT_DONE_YET

from opq_twisted.fleet.reports.answer import Answer, choose_retry_after, refuse_for_now
from opq_twisted.fleet.reports.inbox import Inbox
from opq_twisted.fleet.reports.incoming import Incoming
from opq_twisted.fleet.reports.rate_limit import RateLimit
from opq_twisted.http.client_network import find_network
from opq_twisted.http.connection_limits import Network
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource
from opq_twisted.report.parse import ReportInvalid, parse
from opq_twisted.report.signature import HEADER

#: An Ed25519 signature (64 bytes) in base64.
_SIGNATURE = re.compile(rb"[A-Za-z0-9+/]{86}==")

#: RFC 6585, section 4.
TOO_MANY_REQUESTS = 429

#: 2024-01-01. A machine without a battery for its clock starts in 1970: reports that were stored
#: with that time would soon be deleted because of their age.
_EARLIEST = 1_704_067_200.0

#: A connection that has no answer after so many seconds is cut. The report may be stored later.
_TIMEOUT = 60

_SENTENCES = {
    UNAUTHORIZED: "The key is not known, or has not signed this: send it as pubkey.",
    FORBIDDEN: "The key is not accepted.",
    INTERNAL_SERVER_ERROR: "Something went wrong here; the log says what.",
    SERVICE_UNAVAILABLE: "The report cannot be stored now. Try again in a little while.",
    TOO_MANY_REQUESTS: "There are too many reports from this network. Try again in a little while.",
}


class ReportResource(PlainResource):
    """
    Receives reports. No part of a report is ever sent back or logged.

    The Content-Type does not matter, because the signature covers only the bytes of the body.
    """

    isLeaf = True

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        inbox: Inbox,
        now: Callable[[], float],
        trusted: Sequence[Network],
    ) -> None:
        """
        :param now: gives the time of day, in seconds since the epoch.
        :param trusted: networks of reverse proxies.
        """
        super().__init__()
        self._inbox = inbox
        self._now = now
        self._trusted = trusted
        self._rate_limit = RateLimit(clock)
        #: How many reports were answered, by result.
        self.results: Counter[str] = Counter()

    def render_POST(self, request: BoundedRequest) -> Reply | int:
        """Reply 400, 429 or 503 at once, or when the report is stored."""
        if self._now() < _EARLIEST:
            return self._answered(refuse_for_now("clock"))
        network = find_network(request, self._trusted)
        if network is not None and not self._rate_limit.take_token(network):
            return self._answered(
                Answer(TOO_MANY_REQUESTS, "too-many", retry_after=choose_retry_after())
            )
        try:
            incoming = self._read(request, network or "")
        except ReportInvalid as error:
            self.results["malformed"] += 1
            return Reply.sentence(BAD_REQUEST, str(error))
        Deferred.fromCoroutine(self._store(request, incoming))
        return NOT_DONE_YET

    def _read(self, request: BoundedRequest, network: str) -> Incoming:
        """Read a report; raise `ReportInvalid` if it is invalid."""
        signatures = request.requestHeaders.getRawHeaders(HEADER.encode(), ())
        if len(signatures) != 1 or not _SIGNATURE.fullmatch(signatures[0]):
            raise ReportInvalid(f"The header {HEADER} is missing, or has no signature.")
        assert request.content is not None
        body = request.content.read()
        return Incoming(
            report=parse(body),
            body=body,
            signature=signatures[0].decode(),
            network=network,
            received=self._now(),
        )

    async def _store(self, request: BoundedRequest, incoming: Incoming) -> None:
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)
        request.channel.set_deadline(_TIMEOUT, request.channel.abort)
        # A report is stored even if its sender does not wait for the answer.
        answer = await self._inbox.put(incoming)
        with self._log.failuresHandled("the answer to a report failed"):
            reply = self._answered(answer)
            if not gone:
                request.reply(reply)

    def _answered(self, answer: Answer) -> Reply:
        """Count an answer, and write it."""
        self.results[answer.result] += 1
        # A 401 must name a scheme (RFC 9110, section 15.5.2).
        headers = {b"WWW-Authenticate": HEADER.encode()} if answer.code == UNAUTHORIZED else {}
        if answer.retry_after is not None:
            headers[b"Retry-After"] = b"%d" % answer.retry_after
        sentence = _SENTENCES.get(answer.code)
        if sentence is not None:
            return Reply.sentence(answer.code, sentence, headers)
        body = json.dumps(answer.content).encode()
        return Reply.of(answer.code, body, b"application/json", headers)
