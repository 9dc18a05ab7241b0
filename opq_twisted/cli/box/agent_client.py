"""An HTTP client for a box's agent."""

import base64
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlencode, urlsplit

from opq_twisted import __version__
from opq_twisted.cli.box.listener_owner import foreign_listener
from opq_twisted.cli.deadline import deadline
from opq_twisted.cli.untrusted_json import Document
from opq_twisted.common.errors import AgentAway, AgentFailed

#: Seconds. A check also waits for the update server.
_TIMEOUT, _CHECK_TIMEOUT = 30.0, 660.0

#: Seconds of silence after which a stream counts as broken: an agent sends a heartbeat every 15.
_MAX_SILENCE = 45.0

#: Bytes of a response, of an event, and of a piece of the log.
_MAX_SIZE = 1 << 20

# No query and no fragment, because paths are appended; no password, because the URL is shown.
_URL = re.compile(r"(?=[!-~]+\Z)https?://[^/?#@]+(?:/[^?#]*)?")
_EMPTY_RANGE = re.compile(r"bytes \*/([0-9]{1,15})")

_EXAMPLE = "http://192.168.1.20:8080"


class AgentClient:
    """
    Sends requests to the agent of one box, each over its own connection.

    All methods raise `AgentFailed` if there is no usable response, and its subclass `AgentAway` if
    there is no connection.
    """

    def __init__(self, url: str, password: Callable[[], bytes], timeout: float = _TIMEOUT) -> None:
        """
        :param password: returns the box's password; called at most once per action, if needed.
        :param timeout: seconds within which a response must be complete.
        :raises AgentFailed: if the URL cannot be an agent's.
        """
        try:
            parts = urlsplit(url)
            self._address = parts.hostname or "", parts.port
            is_usable = _URL.fullmatch(url) is not None and self._address[0].encode("idna") != b""
        except ValueError:
            is_usable = False
        if "@" in url:
            raise AgentFailed(
                "The URL must not contain a user name or a password: give it as "
                f"{_EXAMPLE}, and the password with --password-file, or when asked."
            )
        if not is_usable:
            raise AgentFailed(f"{url!r} is not the URL of a box: give it as {_EXAMPLE}.")
        self._url = url.rstrip("/")
        self._path = parts.path.rstrip("/")
        self._connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._password = password
        self._timeout = timeout

    def status(self) -> Document:
        """Get the status."""
        return self._get("/status")

    def events(self) -> Iterator[Document]:
        """
        Yield the status, and then each change of it until the connection ends.

        An older agent has no event stream, and any agent limits the number of them. Then only the
        current status is yielded.
        """
        with self._request("GET", "/events", _MAX_SILENCE, is_stream=True) as response:
            if response.status == HTTPStatus.OK:
                yield from map(self._parse, _events(response))
                return
        yield self.status()

    def check(self) -> Document:
        """Let the box check for an update now."""
        return self._act("/check", [HTTPStatus.OK], timeout=_CHECK_TIMEOUT)

    def update(self) -> Document:
        """Start an update, if there is one and none is under way."""
        return self._act("/box_update", [HTTPStatus.OK, HTTPStatus.ACCEPTED, HTTPStatus.CONFLICT])

    def unblock(self, version: int) -> Document:
        """Let the box install a blocked release automatically again."""
        return self._act("/forgive", [HTTPStatus.OK], {"release": str(version)})

    def history(self) -> Document:
        """Get the last attempts and the blocked releases."""
        return self._get("/history")

    def report(self) -> Document:
        """Get the last report to the update server, as it was sent."""
        return self._get("/report")

    def log(self, start: int) -> bytes | None:
        """
        Get a part of the installer's output.

        :param start: the offset in bytes.
        :returns: some of the following bytes, perhaps none; None if a new log has been started.
        """
        headers = {"Range": f"bytes={start}-"}
        with self._request("GET", "/log", headers=headers) as response:
            if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                size = _EMPTY_RANGE.fullmatch(response.headers.get("Content-Range", ""))
                return None if size and int(size[1]) < start else b""
            if response.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
                raise self._error("/log", response)
            content = response.read(_MAX_SIZE)
            if response.status == HTTPStatus.PARTIAL_CONTENT:
                return content
            # The whole log. It is empty if no installer has run.
            return content[start:] if len(content) >= start else None

    def _get(self, path: str) -> Document:
        with self._request("GET", path) as response:
            return self._document(path, response, [HTTPStatus.OK])

    def _act(
        self,
        path: str,
        expected: list[HTTPStatus],
        form: Mapping[str, str] | None = None,
        timeout: float | None = None,
        authorization: str | None = None,
    ) -> Document:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if authorization is not None:
            headers["Authorization"] = authorization
        body = urlencode(form or {})
        with self._request("POST", path, timeout, body, headers) as response:
            if response.status != HTTPStatus.UNAUTHORIZED:
                return self._document(path, response, expected)
            challenge = response.headers.get("WWW-Authenticate", "")
        if authorization is not None:
            raise AgentFailed("The password is wrong.")
        if not challenge.lower().startswith("basic"):
            raise AgentFailed(
                f"{self._url} asks for a login that is not a box's: see whether the URL is right."
            )
        credentials = base64.b64encode(b":" + self._password()).decode()
        return self._act(path, expected, form, timeout, f"Basic {credentials}")

    @contextmanager
    def _request(
        self,
        method: str,
        path: str,
        timeout: float | None = None,
        body: str | None = None,
        headers: Mapping[str, str] | None = None,
        is_stream: bool = False,
    ) -> Iterator[HTTPResponse]:
        """
        Send a request, and yield the response.

        :param timeout: seconds for the whole response, or of silence in a stream.
        """
        timeout = timeout or self._timeout
        connection = self._connect(*self._address, timeout=timeout)
        headers = {"User-Agent": f"opq-box/{__version__}", **(headers or {})}
        try:
            connection.connect()
            self._require_agent(connection.sock)
            with nullcontext() if is_stream else deadline(connection.sock, timeout):
                connection.request(method, self._path + path, body, headers)
                yield connection.getresponse()
        except TimeoutError:
            raise self._away(f"within {timeout:.0f} seconds") from None
        except OSError as error:
            raise self._away(f"({error.strerror or 'the connection broke'})") from None
        except HTTPException:
            raise self._no_agent("not in HTTP") from None
        finally:
            connection.close()

    def _require_agent(self, connected: socket.socket) -> None:
        """Send nothing to a program of another user that has taken the port."""
        user = foreign_listener(connected)
        if user is not None:
            raise AgentFailed(
                f"A program of the user {user} answers at {self._url}, and not the box's agent, "
                "which runs without its page: end that program, or run opq-box as that user."
            )

    def _document(self, path: str, response: HTTPResponse, expected: list[HTTPStatus]) -> Document:
        if response.status not in expected:
            raise self._error(path, response)
        return self._parse(response.read(_MAX_SIZE))

    def _parse(self, data: bytes) -> Document:
        try:
            return Document.parse(data)
        except ValueError:
            raise self._no_agent("not as an agent does") from None

    def _error(self, path: str, response: HTTPResponse) -> AgentFailed:
        """Make the error for an unexpected status, with the agent's own sentence if it has one."""
        content = response.read(_MAX_SIZE)
        with suppress(ValueError):
            if sentence := Document.parse(content).text("status"):
                return AgentFailed(sentence)
        if response.status == HTTPStatus.NOT_FOUND:
            return AgentFailed(
                f"{self._url} has no {path}: it is not a box's agent, or an older release of it."
            )
        text = Document({"text": content.decode("utf-8", "replace")}).text("text")
        if text and response.headers.get_content_type() == "text/plain":
            return AgentFailed(f"{self._url} answers {response.status}: {text}")
        return self._no_agent(f"{response.status}, and not as an agent does")

    def _away(self, how: str) -> AgentAway:
        return AgentAway(
            f"No agent answers at {self._url} {how}: see whether the box and its opq-box-agent "
            "run, or name another box with --url."
        )

    def _no_agent(self, what: str) -> AgentFailed:
        return AgentFailed(
            f"{self._url} answers {what}: give the URL of the box's agent with --url, as "
            f"{_EXAMPLE}."
        )


def _events(response: HTTPResponse) -> Iterator[bytes]:
    """Yield the data of each event without a name; those with a name are heartbeats."""
    is_named = False
    while line := response.readline(_MAX_SIZE):
        field, _, value = line.strip().partition(b":")
        if field == b"event":
            is_named = True
        elif field == b"data" and not is_named:
            yield value
        elif not line.strip():
            is_named = False
