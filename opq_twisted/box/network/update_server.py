"""The client of the update server's HTTP interface (treq)."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import NoReturn

from attrs import define, field
from hyperlink import EncodedURL
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as LateError
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.http import GONE, INTERNAL_SERVER_ERROR, NOT_FOUND, NOT_MODIFIED, OK
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from opq_twisted.archive.name import UpdateName, parse_version
from opq_twisted.box.network.body import BrokenOff, discard, read_body
from opq_twisted.box.network.headers import strong_etag, wait_applied
from opq_twisted.box.network.http_agent import HttpClients
from opq_twisted.box.network.redirects import REDIRECTS
from opq_twisted.box.network.tunnel import ProxyFailed
from opq_twisted.common.errors import DownloadFailed, NoWaiting, OpqError, ServerFailed
from opq_twisted.http.reasons import reason_of
from opq_twisted.http.retry_after import retry_after

#: Seconds until the headers of a response must be complete.
_HEADERS_TIMEOUT = 60.0

#: Seconds: the longest `Retry-After` that is respected.
MAX_RETRY_AFTER = 24 * 3600.0

#: Seconds until a small body must be complete: enough for a signed file of 5 MB at 9 kB/s.
_BODY_TIMEOUT = 600.0

#: Bytes; the body of /version is a few digits.
_MAX_VERSION_BODY = 1024


@define
class UpdateServerClient:
    """
    Sends requests to the update server, and remembers its `Retry-After`.

    All methods raise ServerFailed if the server cannot be reached, or its response is of no use.
    """

    _clock: IReactorTime
    _http: HttpClients
    #: The server's URL, without a slash at the end.
    endpoint: str
    _user_agent: Callable[[], str]
    #: The time by the clock until which the server asked for no further requests.
    _retry_at: float = field(default=0.0, init=False)

    @property
    def retry_after_left(self) -> float:
        """Seconds that remain of the server's last `Retry-After`."""
        return max(0.0, self._retry_at - self._clock.seconds())

    def archive_url(self, version: int) -> str:
        """Return the URL of an archive."""
        return f"{self.endpoint}/update/{UpdateName(version)}"

    async def newest(self) -> int | None:
        """Request the newest version; None if the server has no update."""
        url = f"{self.endpoint}/version"
        body = await self.read(url, _MAX_VERSION_BODY)
        try:
            return None if body is None else parse_version(body.decode("ascii", "replace"))
        except OpqError as error:
            raise _invalid_response(url, error) from None

    async def poll_etag(self, known: str | None, wait: int, response_timeout: float) -> str:
        """
        Request the entity tag of the newest version, as a long poll.

        :param known: the last entity tag; the server responds when it has another one.
        :param wait: seconds after which the server is asked to respond in any case.
        :param response_timeout: seconds until its response must arrive.
        :raises NoWaiting: if the server has no entity tag, or does not support waiting.
        """
        url = f"{self.endpoint}/version"
        headers = {"Prefer": f"wait={wait}", **({} if known is None else {"If-None-Match": known})}
        response = await self.get(url, headers, response_timeout)
        discard(self._clock, response)
        # A server without any version yet sends a tag with 404.
        tag = strong_etag(response) if response.code in (OK, NOT_FOUND) else None
        if response.code == NOT_MODIFIED and wait_applied(response):
            tag = known
        if response.code not in (OK, NOT_MODIFIED) and tag is None:
            error = unexpected_status(response, url)
            if is_temporary(response):
                raise error
            raise NoWaiting(str(error), error.retry_after)
        if tag is None:
            raise NoWaiting(f"The update server does not let a box wait until {url} changes.")
        return tag

    async def read(self, url: str, limit: int) -> bytes | None:
        """
        Read a small file from the server; None if there is none.

        :param limit: bytes; a longer body is an error.
        """
        response = await self.get(url)
        if response.code != OK:
            discard(self._clock, response)
            if response.code in (NOT_FOUND, GONE):
                return None
            raise unexpected_status(response, url)
        body = bytearray()
        try:
            reading = read_body(self._clock, response, body.extend, limit)
            await reading.addTimeout(_BODY_TIMEOUT, self._clock)
        except LateError:
            raise ServerFailed(
                f"Cannot read {url}: it was not complete after {_BODY_TIMEOUT / 60:.0f} minutes."
            ) from None
        except BrokenOff as error:
            raise ServerFailed(f"Cannot read {url}: {error}") from None
        except DownloadFailed as error:
            raise _invalid_response(url, error) from None
        return bytes(body)

    async def get(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        response_timeout: float = _HEADERS_TIMEOUT,
    ) -> IResponse:
        """
        Request a URL of the server, and return the response with any status and an unread body.

        Redirects are not followed: only archives, which have a signed hash, may be elsewhere.

        :param response_timeout: seconds until the headers of the response must be complete.
        """
        return await self._request(self._http.direct, url, headers, response_timeout)

    async def get_archive(self, url: str, headers: Mapping[str, str]) -> IResponse:
        """Request an archive; redirects are followed, and one that is not allowed is an error."""
        return await self._request(self._http.following, url, headers, _HEADERS_TIMEOUT)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> IResponse:
        """
        Send a small body to the server, over a connection of its own.

        Redirects are not followed. The response's `Retry-After` is not remembered: it is no reason
        to check later for an update.
        """
        return await self._send(self._http.direct, url, headers, _HEADERS_TIMEOUT, "POST", body)

    async def _request(
        self, http: HTTPClient, url: str, headers: Mapping[str, str] | None, response_timeout: float
    ) -> IResponse:
        response = await self._send(http, url, headers or {}, response_timeout)
        if is_temporary(response):
            delay = min(retry_after(response) or 0.0, MAX_RETRY_AFTER)
            self._retry_at = self._clock.seconds() + delay
        return response

    async def _send(
        self,
        http: HTTPClient,
        url: str,
        headers: Mapping[str, str],
        response_timeout: float,
        method: str = "GET",
        body: bytes | None = None,
    ) -> IResponse:
        headers = {**headers, "User-Agent": self._user_agent()}
        try:
            request = http.request(
                method,
                _UnchangedUrl.from_text(url),
                headers=Headers({name: [value] for name, value in headers.items()}),
                data=body,
                allow_redirects=False,
                unbuffered=True,
            )
            return await _cancellable(request.addTimeout(response_timeout, self._clock, _timed_out))
        except (CancelledError, ServerFailed):
            raise
        except ProxyFailed as error:
            raise ServerFailed(
                f"Cannot reach the update server {self.endpoint} through the proxy {error.proxy}: "
                f'{error.reason}. Check the network, and "proxy" under "updater" in the '
                "configuration, or http_proxy and https_proxy in the agent's environment."
            ) from None
        except Exception as error:
            # The network, DNS and TLS raise many different errors.
            raise ServerFailed(
                f"Cannot reach the update server {self.endpoint}: {reason_of(error)}. "
                "Check the network, and updates_ep in the configuration, which opq-box setup "
                "--server URL sets."
            ) from None


class _UnchangedUrl(EncodedURL):
    """A URL that treq does not convert: it would apply IDNA even to an IPv6 address."""

    def to_uri(self) -> "_UnchangedUrl":
        return self


def unexpected_status(response: IResponse, url: str) -> ServerFailed:
    """Make the error for a response whose status is not the expected one."""
    text = f"The update server answers {response.code} when asked for {url}"
    if response.code in REDIRECTS:
        text += (
            ": it has moved, or the network wants a login first. Change updates_ep in the "
            "configuration, or log in"
        )
    return ServerFailed(f"{text}.", retry_after(response))


def is_temporary(response: IResponse) -> bool:
    """Whether the status comes from a busy server, or from a network that wants a login."""
    code: int = response.code
    return (
        code in REDIRECTS or code == HTTPStatus.TOO_MANY_REQUESTS or code >= INTERNAL_SERVER_ERROR
    )


def _invalid_response(url: str, error: OpqError) -> ServerFailed:
    return ServerFailed(f"{url} did not answer as an update server does: {error}")


def _cancellable(request: Deferred[IResponse]) -> Deferred[IResponse]:
    """Fail with CancelledError when cancelled; a cancelled request fails with other errors."""

    def cancel(response: Deferred[IResponse]) -> None:
        response.errback(CancelledError())
        request.cancel()

    response: Deferred[IResponse] = Deferred(cancel)

    def deliver(result: IResponse | Failure) -> None:
        if not response.called:
            response.callback(result)

    request.addBoth(deliver)
    return response


def _timed_out(failure: Failure, timeout: float) -> NoReturn:
    # A cancelled request fails with one of many errors, none of which mentions the timeout.
    reason = f"it did not answer within {timeout:.0f} seconds"
    if isinstance(failure.value, ProxyFailed):
        raise ProxyFailed(failure.value.proxy, reason)
    raise TimeoutError(reason)
