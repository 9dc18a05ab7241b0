"""What the update server says (treq)."""

import os
from collections.abc import Callable, Mapping
from typing import NoReturn

from OpenSSL import SSL
from service_identity import VerificationError
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectError,
    ConnectionClosed,
    ConnectionRefusedError,
    DNSLookupError,
    NoRouteError,
    TCPTimedOutError,
)
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web._newclient import ParseError
from twisted.web.client import ResponseFailed
from twisted.web.http import GONE, NOT_FOUND, NOT_MODIFIED, OK
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from opq_twisted.box.answer import has_waited, retry_after, strong_etag
from opq_twisted.box.body import BrokenOff, hang_up, take
from opq_twisted.errors import DownloadFailed, OpqError, ServerFailed
from opq_twisted.release.name import UpdateName, parse_version

#: Seconds until the headers of an answer are there.
_HEADERS_TIMEOUT = 60.0

#: What the network's errors are called on the page.
_PLAIN = {
    DNSLookupError: "its name is not known here",
    ConnectionRefusedError: "no server answers there",
    NoRouteError: "there is no way to it from here",
    TCPTimedOutError: "it does not answer",
    ConnectTimeout: "it does not answer",
    ConnectionClosed: "it closed the connection",
}

#: An answer to /version is a few digits.
_MAX_VERSION_ANSWER = 1024


class UpdateServer:
    """The update server, as a box sees it."""

    def __init__(
        self,
        clock: IReactorTime,
        http: HTTPClient,
        endpoint: str,
        user_agent: Callable[[], str],
    ) -> None:
        self._clock = clock
        self._http = http
        #: Its URL, without a slash at the end.
        self.endpoint = endpoint
        self._user_agent = user_agent

    def archive_url(self, version: int) -> str:
        """Say where an archive is."""
        return f"{self.endpoint}/update/{UpdateName(version)}"

    async def newest(self) -> int | None:
        """
        Ask for the newest version; None when the server has no update.

        :raises ServerFailed: when it cannot be reached, or answers with anything else.
        """
        url = f"{self.endpoint}/version"
        answer = await self.read(url, _MAX_VERSION_ANSWER)
        try:
            return None if answer is None else parse_version(answer.decode("ascii", "replace"))
        except OpqError as error:
            raise _nonsense(url, error) from None

    async def entity_tag(self, known: str | None, wait: int, patience: float) -> str:
        """
        Ask for the entity tag of the newest version.

        :param known: the one known already: the answer comes when there is another.
        :param wait: seconds that the server is to wait for another at most.
        :param patience: seconds that its answer is waited for.
        :raises ServerFailed: when the server cannot be reached, has no entity tag, or lets nobody
            wait.
        """
        url = f"{self.endpoint}/version"
        headers = {"Prefer": f"wait={wait}", **({} if known is None else {"If-None-Match": known})}
        response = await self.get(url, headers, patience)
        hang_up(self._clock, response)
        if response.code not in (OK, NOT_MODIFIED):
            raise refused(response, url)
        tag = known if has_waited(response) else None
        if response.code == OK:
            tag = strong_etag(response)
        if tag is None:
            raise ServerFailed(f"The update server lets nobody wait until {url} changes.")
        return tag

    async def read(self, url: str, limit: int) -> bytes | None:
        """
        Read what is at a URL of the server; None when there is nothing.

        :param limit: bytes; more are not taken.
        :raises ServerFailed: when it cannot be reached, or does not send that.
        """
        response = await self.get(url)
        if response.code != OK:
            hang_up(self._clock, response)
            if response.code in (NOT_FOUND, GONE):
                return None
            raise refused(response, url)
        answer = bytearray()
        try:
            await take(self._clock, response, answer.extend, limit)
        except BrokenOff as error:
            raise ServerFailed(f"Cannot read {url}: {error}") from None
        except DownloadFailed as error:
            raise _nonsense(url, error) from None
        return bytes(answer)

    async def get(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        patience: float = _HEADERS_TIMEOUT,
    ) -> IResponse:
        """
        Ask for a URL of the server; whatever the answer is, its body waits to be taken.

        :param patience: seconds until the headers of the answer are there.
        :raises ServerFailed: when the server cannot be reached, or does not answer.
        """
        every = {**(headers or {}), "User-Agent": self._user_agent()}
        asking = self._http.get(
            url, headers=Headers({name: [value] for name, value in every.items()}), unbuffered=True
        )
        try:
            return await _cancelled_as_such(asking.addTimeout(patience, self._clock, _too_late))
        except CancelledError:
            raise
        except Exception as error:
            # Whatever the network, the name service or TLS can come up with.
            raise ServerFailed(
                f"Cannot reach the update server {self.endpoint}: {_reason(error)}. "
                "Check the network, and updates_ep in the configuration."
            ) from None


def refused(response: IResponse, url: str) -> ServerFailed:
    """Say that the server does not send what is at a URL."""
    return ServerFailed(
        f"The update server answers {response.code} when asked for {url}.", retry_after(response)
    )


def _nonsense(url: str, error: OpqError) -> ServerFailed:
    return ServerFailed(f"{url} answers what no update server would: {error}")


def _cancelled_as_such(asking: Deferred[IResponse]) -> Deferred[IResponse]:
    """Fail with CancelledError when cancelled: a request becomes one of many errors then."""

    def cancel(answer: Deferred[IResponse]) -> None:
        answer.errback(CancelledError())
        asking.cancel()

    answer: Deferred[IResponse] = Deferred(cancel)

    def deliver(result: IResponse | Failure) -> None:
        if not answer.called:
            answer.callback(result)

    asking.addBoth(deliver)
    return answer


def _too_late(_: object, timeout: float) -> NoReturn:
    # A request that is cancelled fails with one of many errors, none of which says why.
    raise TimeoutError(f"it did not answer within {timeout:.0f} seconds")


def _reason(error: Exception) -> str:
    """Say the innermost reason, without the full stop that Twisted ends its own with."""
    answered = isinstance(error, ResponseFailed)
    while reasons := getattr(error, "reasons", None):
        error = reasons[-1].value
    if answered and isinstance(error, ParseError | ValueError):
        # Their text shows what came, however long, as Python writes it.
        return "what it answers is not HTTP"
    for kind, words in _PLAIN.items():
        if isinstance(error, kind):
            return words
    if isinstance(error, ConnectError) and error.osError is not None:
        return os.strerror(error.osError)
    if isinstance(error, VerificationError):
        return "its certificate is another server's"
    if isinstance(error, SSL.Error):
        return _untrusted(error)
    return (str(error) or type(error).__name__).rstrip(".")


def _untrusted(error: SSL.Error) -> str:
    """Say what OpenSSL tells as a list of library, function and reason."""
    details = error.args[0] if error.args else None
    reasons = [reason for *_, reason in details] if isinstance(details, list) else []
    if "certificate verify failed" in reasons:
        return "its certificate is not trusted here, or not valid by the clock of this box"
    return f"there is no secure connection ({', '.join(reasons) or 'no reason is given'})"
