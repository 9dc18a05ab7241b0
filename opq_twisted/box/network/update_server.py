"""What the update server says (treq)."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import NoReturn

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
from opq_twisted.box.network.headers import retry_after, strong_etag, wait_applied
from opq_twisted.box.network.http_agent import HttpClients
from opq_twisted.box.network.reasons import reason_of
from opq_twisted.box.network.redirects import REDIRECTS
from opq_twisted.box.network.tunnel import ProxyFailed
from opq_twisted.common.errors import DownloadFailed, NoWaiting, OpqError, ServerFailed

#: Seconds until the headers of an answer are there.
_HEADERS_TIMEOUT = 60.0

#: Seconds that a server is left alone at most, whatever it says.
_LONGEST_ALONE = 24 * 3600.0

#: Seconds until a small answer is whole; a signed file of 5 MB comes in that time at 9 kB/s.
_BODY_TIMEOUT = 600.0

#: An answer to /version is a few digits.
_MAX_VERSION_ANSWER = 1024


class UpdateServerClient:
    """The update server, as a box sees it."""

    def __init__(
        self,
        clock: IReactorTime,
        http: HttpClients,
        endpoint: str,
        user_agent: Callable[[], str],
    ) -> None:
        self._clock = clock
        self._http = http
        #: Its URL, without a slash at the end.
        self.endpoint = endpoint
        self._user_agent = user_agent
        #: Until when the server wants to be left alone.
        self._alone_until = 0.0

    @property
    def retry_after_left(self) -> float:
        """Seconds that the server still wants to be left alone, as it said last."""
        return max(0.0, self._alone_until - self._clock.seconds())

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

    async def poll_etag(self, known: str | None, wait: int, response_timeout: float) -> str:
        """
        Ask for the entity tag of the newest version.

        :param known: the one known already: the answer comes when there is another.
        :param wait: seconds that the server is to wait for another at most.
        :param response_timeout: seconds that its answer is waited for.
        :raises NoWaiting: when the server has no entity tag, or lets nobody wait.
        :raises ServerFailed: when it cannot be reached, or does not answer now.
        """
        url = f"{self.endpoint}/version"
        headers = {"Prefer": f"wait={wait}", **({} if known is None else {"If-None-Match": known})}
        response = await self.get(url, headers, response_timeout)
        discard(self._clock, response)
        # Where there is no version yet, that may have a tag as well.
        tag = strong_etag(response) if response.code in (OK, NOT_FOUND) else None
        if response.code == NOT_MODIFIED and wait_applied(response):
            tag = known
        if response.code not in (OK, NOT_MODIFIED) and tag is None:
            error = unexpected_status(response, url)
            if is_temporary(response):
                raise error
            raise NoWaiting(str(error), error.retry_after)
        if tag is None:
            raise NoWaiting(f"The update server lets nobody wait until {url} changes.")
        return tag

    async def read(self, url: str, limit: int) -> bytes | None:
        """
        Read what is at a URL of the server; None when there is nothing.

        :param limit: bytes; more are not taken.
        :raises ServerFailed: when it cannot be reached, or does not send that.
        """
        response = await self.get(url)
        if response.code != OK:
            discard(self._clock, response)
            if response.code in (NOT_FOUND, GONE):
                return None
            raise unexpected_status(response, url)
        answer = bytearray()
        try:
            taking = read_body(self._clock, response, answer.extend, limit)
            await taking.addTimeout(_BODY_TIMEOUT, self._clock)
        except LateError:
            raise ServerFailed(
                f"Cannot read {url}: it was not whole after {_BODY_TIMEOUT / 60:.0f} minutes."
            ) from None
        except BrokenOff as error:
            raise ServerFailed(f"Cannot read {url}: {error}") from None
        except DownloadFailed as error:
            raise _nonsense(url, error) from None
        return bytes(answer)

    async def get(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        response_timeout: float = _HEADERS_TIMEOUT,
    ) -> IResponse:
        """
        Ask for a URL of the server; whatever the answer is, its body waits to be taken.

        No redirect is followed: that is for archives only, which have a signed hash.

        :param response_timeout: seconds until the headers of the answer are there.
        :raises ServerFailed: when the server cannot be reached, or does not answer.
        """
        return await self._ask(self._http.direct, url, headers, response_timeout)

    async def get_archive(self, url: str, headers: Mapping[str, str]) -> IResponse:
        """
        Ask for an archive, which may be anywhere on the internet.

        :raises ServerFailed: as `get`, and when it leads where no box may be led.
        """
        return await self._ask(self._http.following, url, headers, _HEADERS_TIMEOUT)

    async def _ask(
        self, http: HTTPClient, url: str, headers: Mapping[str, str] | None, response_timeout: float
    ) -> IResponse:
        every = {**(headers or {}), "User-Agent": self._user_agent()}
        try:
            asking = http.get(
                _AsItIs.from_text(url),
                headers=Headers({name: [value] for name, value in every.items()}),
                allow_redirects=False,
                unbuffered=True,
            )
            response = await _cancelled_as_such(
                asking.addTimeout(response_timeout, self._clock, _timed_out)
            )
        except (CancelledError, ServerFailed):
            raise
        except ProxyFailed as error:
            raise ServerFailed(
                f"Cannot reach the update server {self.endpoint} through the proxy {error.proxy}: "
                f'{error.reason}. Check the network, and "proxy" under "updater" in the '
                "configuration, or http_proxy and https_proxy in the agent's environment."
            ) from None
        except Exception as error:
            # Whatever the network, the name service or TLS can come up with.
            raise ServerFailed(
                f"Cannot reach the update server {self.endpoint}: {reason_of(error)}. "
                "Check the network, and updates_ep in the configuration."
            ) from None
        if is_temporary(response):
            asked = min(retry_after(response) or 0.0, _LONGEST_ALONE)
            self._alone_until = self._clock.seconds() + asked
        return response


class _AsItIs(EncodedURL):
    """A URL that treq takes as it is: it would have IDNA read even an IPv6 address."""

    def to_uri(self) -> "_AsItIs":
        return self


def unexpected_status(response: IResponse, url: str) -> ServerFailed:
    """Say that the server does not send what is at a URL."""
    text = f"The update server answers {response.code} when asked for {url}"
    if response.code in REDIRECTS:
        text += (
            ": it has moved, or the network wants a login first. Change updates_ep in the "
            "configuration, or log in"
        )
    return ServerFailed(f"{text}.", retry_after(response))


def is_temporary(response: IResponse) -> bool:
    """Whether a busy server, or a network that wants a login, answers for the time being."""
    code: int = response.code
    return (
        code in REDIRECTS or code == HTTPStatus.TOO_MANY_REQUESTS or code >= INTERNAL_SERVER_ERROR
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


def _timed_out(failure: Failure, timeout: float) -> NoReturn:
    # A request that is cancelled fails with one of many errors, none of which says why.
    reason = f"it did not answer within {timeout:.0f} seconds"
    if isinstance(failure.value, ProxyFailed):
        raise ProxyFailed(failure.value.proxy, reason)
    raise TimeoutError(reason)
