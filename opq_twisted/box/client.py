"""What the update server says (treq)."""

import base64
import re
from collections.abc import Callable
from typing import NoReturn

from treq.client import HTTPClient
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.web.http import GONE, NOT_FOUND, OK, stringToDatetime
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from opq_twisted.box.body import hang_up, take
from opq_twisted.errors import OpqError, ServerFailed
from opq_twisted.release.name import UpdateName, parse_version

#: Seconds until the headers of an answer are there.
_HEADERS_TIMEOUT = 60.0

#: An answer to /version is a few digits.
_MAX_VERSION_ANSWER = 1024

_SHA_256 = re.compile(rb"(?:^|[\s,])sha-256=:([A-Za-z0-9+/]{43}=):")


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
        self._endpoint = endpoint
        self._user_agent = user_agent

    async def newest(self) -> int | None:
        """
        Ask for the newest version; None when the server has no update.

        :raises ServerFailed: when it cannot be reached, or answers with anything else.
        """
        response = await self._get("version")
        if response.code in (NOT_FOUND, GONE):
            hang_up(self._clock, response)
            return None
        self._require_ok(response, "the newest version")
        answer = bytearray()
        try:
            await take(self._clock, response, answer.extend, _MAX_VERSION_ANSWER)
            return parse_version(answer.decode("ascii", "replace"))
        except OpqError as error:
            raise ServerFailed(
                f"{self._endpoint}/version answers what no update server would: {error}"
            ) from None

    async def archive(self, version: int) -> IResponse:
        """
        Ask for an archive; its body waits to be taken.

        :raises ServerFailed: when the server cannot be reached, or does not send it.
        """
        name = str(UpdateName(version))
        response = await self._get(f"update/{name}")
        self._require_ok(response, name)
        return response

    def _require_ok(self, response: IResponse, what: str) -> None:
        if response.code == OK:
            return
        hang_up(self._clock, response)
        raise ServerFailed(
            f"The update server answers {response.code} when asked for {what}.",
            _retry_after(response),
        )

    async def _get(self, path: str) -> IResponse:
        url = f"{self._endpoint}/{path}"
        try:
            response: IResponse = await self._http.get(
                url, headers=Headers({"User-Agent": [self._user_agent()]}), unbuffered=True
            ).addTimeout(_HEADERS_TIMEOUT, self._clock, _too_late)
        except CancelledError:
            raise
        except Exception as error:
            # Whatever the network, the name service or TLS can come up with.
            raise ServerFailed(
                f"Cannot reach the update server {self._endpoint}: {_reason(error)}. "
                "Check the network, and updates_ep in the configuration."
            ) from None
        return response


def announced_digest(response: IResponse) -> str | None:
    """Read the sha-256 of `Repr-Digest` (RFC 9530), in hexadecimal."""
    for value in response.headers.getRawHeaders(b"Repr-Digest", []):
        found = _SHA_256.search(value)
        if found is not None:
            return base64.b64decode(found[1]).hex()
    return None


def _too_late(_: object, timeout: float) -> NoReturn:
    # A request that is cancelled fails with one of many errors, none of which says why.
    raise TimeoutError(f"it did not answer within {timeout:.0f} seconds")


def _reason(error: Exception) -> str:
    """Say the innermost reason, without the full stop that Twisted ends its own with."""
    while reasons := getattr(error, "reasons", None):
        error = reasons[-1].value
    return (str(error) or type(error).__name__).rstrip(".")


def _retry_after(response: IResponse) -> float | None:
    """Seconds to wait, from either form of the header (RFC 9110, section 10.2.3)."""
    [value] = response.headers.getRawHeaders(b"Retry-After", [b""])[:1]
    if re.fullmatch(rb"[0-9]{1,9}", value):
        return float(value)
    [now] = response.headers.getRawHeaders(b"Date", [b""])[:1]
    try:
        # Against the server's own clock: the box's may be wrong.
        seconds: int = stringToDatetime(value) - stringToDatetime(now)
    except (ValueError, IndexError, KeyError):
        return None
    return max(0.0, seconds)
