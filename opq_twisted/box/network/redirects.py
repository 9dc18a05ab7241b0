"""Follows redirects, but not towards the box's own network."""

import re
from contextlib import suppress
from typing import Protocol
from urllib.parse import urljoin

from attrs import frozen
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse

from opq_twisted.box.network.addresses import Reach
from opq_twisted.box.network.body import discard, read_body
from opq_twisted.box.network.connect import TooClose
from opq_twisted.box.network.tunnel import ProxyFailed
from opq_twisted.box.network.urls import Url, read_url
from opq_twisted.common.errors import DownloadFailed, ServerFailed
from opq_twisted.http.reasons import reason_of

#: The redirects that a GET follows (RFC 9110, section 15.4).
REDIRECTS = (301, 302, 303, 307, 308)

#: Redirects followed in a row.
MAX_REDIRECTS = 5

#: Bytes of a redirect's body that are read to keep the connection, and the seconds without a byte
#: after which it is closed instead.
_MAX_BODY = 4096
_BODY_TIMEOUT = 5.0

#: The length that every client should support (RFC 9110, section 4.1): mirrors sign long URLs.
_LOCATION = re.compile(rb"[!-~]{1,8000}")


@frozen
class LocatedResponse:
    """A response, and how close its server is to the box."""

    response: IResponse
    #: None behind a proxy.
    reach: Reach | None


class _ReachLimitedAgent(Protocol):
    """`BoundedAgent`, which sends requests only to servers that are not too close."""

    async def request_within(
        self, method: bytes, uri: bytes, headers: Headers | None, closest: Reach = Reach.MACHINE
    ) -> LocatedResponse: ...

    async def reaches_of_name(self, url: Url) -> list[Reach]: ...


@frozen
class RedirectingAgent:
    """
    Follows redirects, but never closer to the box than the first server.

    Otherwise a server could use the box, which is inside the home, to send requests to other
    devices there, or to the box itself.
    """

    _clock: IReactorTime
    _agent: _ReachLimitedAgent

    async def request(self, method: bytes, uri: bytes, headers: Headers | None = None) -> IResponse:
        """Send a request, and follow redirects; raises ServerFailed if one is not allowed."""
        first = await self._agent.request_within(method, uri, headers)
        response, closest = first.response, first.reach
        url = uri.decode("ascii")
        for _ in range(MAX_REDIRECTS):
            if response.code not in REDIRECTS:
                return response
            await self._finish(response)
            if closest is None:
                # The farthest of the name's addresses counts: the server's owner may have added
                # the closer ones to DNS. A proxy is never used for the box itself.
                closest = min(*await self._agent.reaches_of_name(read_url(url)), Reach.HOME)
            url = _target(url, response)
            response = await self._request_target(method, url, headers, closest)
        if response.code not in REDIRECTS:
            return response
        discard(self._clock, response)
        raise ServerFailed(
            f"The update server redirects more than {MAX_REDIRECTS} times. Its operator has to "
            "correct that."
        )

    async def _finish(self, response: IResponse) -> None:
        """Read a short body, so that the connection can be used again, or close the connection."""
        if response.length is UNKNOWN_LENGTH or response.length > _MAX_BODY:
            discard(self._clock, response)
            return
        with suppress(DownloadFailed):
            await read_body(self._clock, response, lambda data: None, _MAX_BODY, _BODY_TIMEOUT)

    async def _request_target(
        self, method: bytes, url: str, headers: Headers | None, closest: Reach
    ) -> IResponse:
        host = read_url(url).host
        uri = url.encode("ascii")
        try:
            return (await self._agent.request_within(method, uri, headers, closest)).response
        except (CancelledError, ServerFailed, ProxyFailed):
            raise
        except TooClose:
            raise ServerFailed(
                f"The update server redirects to {host}, which is this box or in its network. "
                "The box follows such a redirect only if updates_ep is as close itself."
            ) from None
        except Exception as error:
            # The network, DNS and TLS raise many different errors.
            raise ServerFailed(
                f"Cannot reach {host}, where the update server redirects to: {reason_of(error)}. "
                "Try again later."
            ) from None


def _target(url: str, response: IResponse) -> str:
    """
    Return the target of a redirect (RFC 9110, section 10.2.2).

    :raises ServerFailed: if the target is not an http or https URL, or leads from https to http.
    """
    values = response.headers.getRawHeaders(b"Location", [])
    try:
        if len(values) != 1 or not _LOCATION.fullmatch(values[0]):
            raise ValueError("its Location is missing, or not a URL")
        target: str = urljoin(url, values[0].decode("ascii"))
        if read_url(target).secure < read_url(url).secure:
            raise ValueError("it is less secure than https")
    except ValueError as error:
        raise ServerFailed(
            f"The update server redirects to a URL that a box does not follow: {error}."
        ) from None
    return target
