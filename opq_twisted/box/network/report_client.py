"""The client of the update server's `/report`, to which boxes send their reports."""

from attrs import define, frozen
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IResponse

from opq_twisted.box.network.body import BrokenOff, discard, read_body
from opq_twisted.box.network.update_server import MAX_RETRY_AFTER, UpdateServerClient
from opq_twisted.common.errors import DownloadFailed, ServerFailed
from opq_twisted.http.retry_after import retry_after
from opq_twisted.report.signature import HEADER

#: Bytes of an answer: those to a report with twenty attempts are some 800.
_MAX_BODY = 4096

#: Seconds until an answer must be complete, after its headers.
_BODY_TIMEOUT = 30.0

#: The statuses whose body is read; it is JSON.
_WITH_BODY = (200, 409)


@frozen
class Answer:
    """The server's answer to a report."""

    status: int
    #: Empty if this status needs no body.
    body: bytes = b""
    #: The server's `Retry-After` in seconds, at most a day; 0 if it sent none.
    retry_after: float = 0.0


@define
class ReportClient:
    """Sends reports, each over a connection of its own."""

    _clock: IReactorTime
    _server: UpdateServerClient

    async def send(self, body: bytes, signature: str) -> Answer:
        """
        Send a report, and return the answer with any status.

        :raises ServerFailed: if the server cannot be reached, or its answer does not end.
        """
        url = f"{self._server.endpoint}/report"
        headers = {"Content-Type": "application/json", HEADER: signature}
        response = await self._server.post(url, body, headers)
        pause = min(retry_after(response) or 0.0, MAX_RETRY_AFTER)
        if response.code not in _WITH_BODY:
            discard(self._clock, response)
            return Answer(response.code, retry_after=pause)
        return Answer(response.code, await self._read(response, url), pause)

    async def _read(self, response: IResponse, url: str) -> bytes:
        body = bytearray()
        try:
            reading: Deferred[int] = read_body(self._clock, response, body.extend, _MAX_BODY)
            await reading.addTimeout(_BODY_TIMEOUT, self._clock)
        except TimeoutError:
            raise ServerFailed(
                f"Cannot read the answer of {url}: it was not complete after {_BODY_TIMEOUT:.0f} "
                "seconds."
            ) from None
        except BrokenOff as error:
            raise ServerFailed(f"Cannot read the answer of {url}: {error}") from None
        except DownloadFailed as error:
            raise ServerFailed(f"{url} did not answer as an update server does: {error}") from None
        return bytes(body)
