"""Sends a message to the receiver of the webhook over HTTP, with a signature."""

import hashlib
import hmac
from collections.abc import Callable
from typing import Any, NoReturn, cast
from urllib.parse import urlsplit

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime, ITCPTransport, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web._newclient import HTTP11ClientProtocol
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse

from opq_twisted import __version__
from opq_twisted.common.errors import OpqError
from opq_twisted.fleet.webhook.schedule import Message
from opq_twisted.http.reasons import reason_of
from opq_twisted.http.retry_after import retry_after
from opq_twisted.http.small_body import SmallBody

#: A receiver must have sent its whole answer within so many seconds.
TIMEOUT = 10.0

#: The limit of bytes of an answer; only its status matters.
_MAX_ANSWER = 64 * 1024

#: The header of the signature.
_SIGNATURE = "Opq-Signature"


class NotAccepted(OpqError):
    """The receiver did not accept a message; the text is the second half of a sentence."""

    def __init__(self, why: str, retry_after: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after = retry_after


@frozen
class Receiver:
    """The receiver of the messages."""

    url: str = field(repr=False)
    #: The secret that is shared with the receiver; None for no signature.
    secret: str | None = field(repr=False)

    @property
    def name(self) -> str:
        """The scheme, host and port. With many chat services, the rest of the URL is a secret."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


class Poster:
    """Sends each message over a new connection, and follows no redirect."""

    def __init__(
        self, clock: IReactorTime, agent: IAgent, receiver: Receiver, now: Callable[[], float]
    ) -> None:
        """:param now: gives the time of day, in seconds since the epoch."""
        self._clock = clock
        self._agent = agent
        self._now = now
        self.receiver = receiver

    async def post(self, message: Message) -> None:
        """
        Send a message.

        :raises NotAccepted: if the receiver does not answer with a status of success.
        """
        exchange = Deferred.fromCoroutine(self._exchange(message))
        try:
            status, wait = await exchange.addTimeout(TIMEOUT, self._clock, _timed_out)
        except NotAccepted:
            raise
        except Exception as error:
            # The network, DNS and TLS raise many different errors.
            raise NotAccepted(reason_of(error)) from None
        if not 200 <= status < 300:
            hint = ", and redirects are not followed" if 300 <= status < 400 else ""
            raise NotAccepted(f"it answers with status {status}{hint}", wait)

    async def _exchange(self, message: Message) -> tuple[int, float]:
        """Return the status, and the seconds of `Retry-After`."""
        body = message.body.encode()
        response: IResponse = await self._agent.request(
            b"POST", self.receiver.url.encode(), self._headers(message, body), SmallBody(body)
        )
        response.deliverBody(_Rest(self._clock))
        return response.code, retry_after(response) or 0.0

    def _headers(self, message: Message, body: bytes) -> Headers:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"opq-update-server/{__version__}",
            "Opq-Event": message.event,
            "Opq-Delivery": message.delivery,
        }
        if self.receiver.secret is not None:
            headers[_SIGNATURE] = sign(body, int(self._now()), self.receiver.secret)
        return Headers({name: [value] for name, value in headers.items()})


def make_agent(reactor: Any) -> IAgent:
    """Make an agent that trusts the authorities of the system, and reads short answers only."""
    return Agent(reactor, BrowserLikePolicyForHTTPS(), pool=_BoundedPool(reactor, persistent=False))


def sign(body: bytes, at: int, secret: str) -> str:
    """
    Return the signature of a message: the time, and an HMAC of the time and the body (RFC 2104).

    :param at: seconds since the epoch. It lets the receiver refuse a message that somebody has
        recorded and sends again.
    """
    signed = f"{at}.".encode() + body
    return f"t={at},sha256={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"


class _BoundedProtocol(HTTP11ClientProtocol):
    """Aborts the connection if the headers and the body of an answer are too long."""

    _received = 0

    def dataReceived(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > _MAX_ANSWER:
            cast(ITCPTransport, self.transport).abortConnection()
        else:
            super().dataReceived(data)


class _BoundedFactory(HTTPConnectionPool._factory):  # type: ignore[misc, valid-type]
    #: Does not log the start and the end of each connection.
    noisy = False

    def buildProtocol(self, _address: object) -> _BoundedProtocol:
        return _BoundedProtocol(self._quiescentCallback)


class _BoundedPool(HTTPConnectionPool):
    _factory = _BoundedFactory


class _Rest(Protocol):
    """Discards the body of an answer, and cuts a connection that does not end."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._late: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._late = self._clock.callLater(TIMEOUT, cast(ITransport, self.transport).loseConnection)

    def connectionLost(self, _reason: Failure = connectionDone) -> None:
        if self._late is not None and self._late.active():
            self._late.cancel()


def _timed_out(_result: object, timeout: float) -> NoReturn:
    raise NotAccepted(f"it has not answered within {timeout:.0f} seconds")
