"""Follows redirects as far as a server that needs no key may lead a box."""

import re
from typing import Protocol
from urllib.parse import urljoin

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from opq_twisted.box.network.addresses import Reach
from opq_twisted.box.network.body import discard
from opq_twisted.box.network.connect import TooClose
from opq_twisted.box.network.reasons import reason_of
from opq_twisted.box.network.tunnel import ProxyFailed
from opq_twisted.box.network.urls import Url, read_url
from opq_twisted.common.errors import ServerFailed

#: The statuses that tell a GET where to go on (RFC 9110, section 15.4).
REDIRECTS = (301, 302, 303, 307, 308)

#: Redirects in a row that are followed.
MAX_REDIRECTS = 5

#: As long as all should support at least (RFC 9110, section 4.1): signed URLs of mirrors are long.
_LOCATION = re.compile(rb"[!-~]{1,8000}")


@frozen
class Answer:
    """A response, and how close the server is that it came from."""

    response: IResponse
    #: None if a proxy connected to the server.
    reach: Reach | None


class Asker(Protocol):
    """Asks servers that are not too close: see `BoundedAgent`."""

    async def ask(
        self, method: bytes, uri: bytes, headers: Headers | None, most: Reach = Reach.MACHINE
    ) -> Answer:
        """
        Ask a server.

        :raises TooClose: if it is closer than `most`.
        """
        raise NotImplementedError

    async def reaches_of_name(self, url: Url) -> list[Reach]:
        """
        Say how close a server is, by each of the addresses that the box knows for its name.

        A name that is not known is taken for one of the internet.
        """
        raise NotImplementedError


@implementer(IAgent)
class RedirectingAgent:
    """
    Follows redirects, but never closer to the box than the server that was asked first.

    Otherwise whoever is the server could use the box, which is inside the home, to ask other
    devices there, or the box itself.
    """

    def __init__(self, clock: IReactorTime, agent: Asker) -> None:
        self._clock = clock
        self._agent = agent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """See `IAgent.request`; fails with `ServerFailed` where a redirect is not followed."""
        return Deferred.fromCoroutine(self._follow(method, uri, headers))

    async def _follow(self, method: bytes, uri: bytes, headers: Headers | None) -> IResponse:
        answer = await self._agent.ask(method, uri, headers)
        response, most = answer.response, answer.reach
        url = uri.decode("ascii")
        for _ in range(MAX_REDIRECTS):
            if response.code not in REDIRECTS:
                return response
            discard(self._clock, response)
            if most is None:
                # Of a name with many addresses the farthest counts: whoever is the server may be
                # who gave it the others. A proxy is never asked for what is on the box itself.
                most = min(*await self._agent.reaches_of_name(read_url(url)), Reach.HOME)
            url = _target(url, response)
            response = await self._ask(method, url, headers, most)
        if response.code not in REDIRECTS:
            return response
        discard(self._clock, response)
        raise ServerFailed(
            f"The update server redirects more than {MAX_REDIRECTS} times. Its operator has to "
            "mend that."
        )

    async def _ask(
        self, method: bytes, url: str, headers: Headers | None, most: Reach
    ) -> IResponse:
        place = read_url(url).host
        try:
            return (await self._agent.ask(method, url.encode("ascii"), headers, most)).response
        except (CancelledError, ServerFailed, ProxyFailed):
            raise
        except TooClose:
            raise ServerFailed(
                f"The update server redirects to {place}, which is this box or in its network. "
                "The box follows only where updates_ep is as close itself."
            ) from None
        except Exception as error:
            # Whatever the network, the name service or TLS can come up with.
            raise ServerFailed(
                f"Cannot reach {place}, where the update server redirects to: {reason_of(error)}. "
                "Try again later."
            ) from None


def _target(url: str, response: IResponse) -> str:
    """
    Say where a redirect leads (RFC 9110, section 10.2.2).

    :raises ServerFailed: if it leads to no HTTP server, or from https to http.
    """
    values = response.headers.getRawHeaders(b"Location", [])
    try:
        if len(values) != 1 or not _LOCATION.fullmatch(values[0]):
            raise ValueError("its Location is missing, or not a URL")
        target: str = urljoin(url, values[0].decode("ascii"))
        if read_url(target).secure < read_url(url).secure:
            raise ValueError("it is less safe than https")
    except ValueError as error:
        raise ServerFailed(
            f"The update server redirects to a URL that a box does not follow: {error}."
        ) from None
    return target
