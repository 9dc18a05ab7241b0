"""Asks a box's agent over HTTP."""

import base64
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from threading import Event, Timer
from urllib.parse import urlencode, urlsplit

from opq_twisted import __version__
from opq_twisted.cli.box.listener_owner import foreign_listener
from opq_twisted.cli.box.untrusted_json import Document
from opq_twisted.common.errors import AgentAway, AgentFailed

#: Seconds; who lets the box check waits for the update server, too.
_TIMEOUT, _CHECK_TIMEOUT = 30.0, 660.0

#: Seconds of silence after which a stream counts as broken: an agent says something every 15.
_SILENCE = 45.0

#: Bytes of an answer, of an event, and of a piece of the log.
_LARGEST = 1 << 20

# Without a query or a fragment, for paths are appended; without a password, which all may see.
_URL = re.compile(r"(?=[!-~]+\Z)https?://[^/?#@]+(?:/[^?#]*)?")
_EMPTY_RANGE = re.compile(r"bytes \*/([0-9]{1,15})")


class AgentClient:
    """The agent of one box; each question is a connection of its own."""

    def __init__(self, url: str, password: Callable[[], bytes], timeout: float = _TIMEOUT) -> None:
        """
        Note where the agent is.

        :param password: is called, at most once, where the box wants to know it.
        :param timeout: seconds within which an answer has to be whole.
        :raises AgentFailed: when there can be no agent at such a URL.
        """
        try:
            parts = urlsplit(url)
            self._address = parts.hostname or "", parts.port
            usable = _URL.fullmatch(url) is not None and self._address[0].encode("idna") != b""
        except ValueError:
            usable = False
        if "@" in url:
            raise AgentFailed(
                "That is no box's URL, for there is a user name or a password in it: give it as "
                "http://192.168.1.20:8080, and the password with --password-file, or when asked."
            )
        if not usable:
            raise AgentFailed(f"{url!r} is no box: give its URL as http://192.168.1.20:8080.")
        self._url = url.rstrip("/")
        self._path = parts.path.rstrip("/")
        self._connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._password = password
        self._timeout = timeout

    def status(self) -> Document:
        """
        Ask how the box is.

        :raises AgentFailed: as all other questions do, when there is no answer that can be used.
        """
        return self._get("/status")

    def events(self) -> Iterator[Document]:
        """
        Give the status, and then each change of it for as long as the agent is there.

        An agent that does not tell of changes, be it that it is an older one or that it tells too
        many others of them, gives the status, and no more.
        """
        with self._asked("GET", "/events", _SILENCE, is_stream=True) as answer:
            if answer.status == HTTPStatus.OK:
                yield from map(self._parse, _events(answer))
                return
        yield self.status()

    def check(self) -> Document:
        """Let the box ask the update server now."""
        return self._act("/check", [HTTPStatus.OK], timeout=_CHECK_TIMEOUT)

    def update(self) -> Document:
        """Let an update begin, if there is one and none is under way."""
        usual = [HTTPStatus.OK, HTTPStatus.ACCEPTED, HTTPStatus.CONFLICT]
        return self._act("/box_update", usual)

    def unblock(self, version: int) -> Document:
        """Let a release that was refused be tried again by itself."""
        return self._act("/forgive", [HTTPStatus.OK], {"release": str(version)})

    def history(self) -> Document:
        """Ask for the last attempts, and for the releases that are refused."""
        return self._get("/history")

    def log(self, start: int) -> bytes | None:
        """
        Read on in what the installer said.

        :param start: bytes that are known already.
        :returns: some of what follows, perhaps nothing; None when the log has begun anew.
        """
        span = {"Range": f"bytes={start}-"}
        with self._asked("GET", "/log", headers=span) as answer:
            if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                found = _EMPTY_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
                return None if found and int(found[1]) < start else b""
            if answer.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
                raise self._refusal("/log", answer)
            content = answer.read(_LARGEST)
            if answer.status == HTTPStatus.PARTIAL_CONTENT:
                return content
            # The whole, which is nothing where there is no log.
            return content[start:] if len(content) >= start else None

    def _get(self, path: str) -> Document:
        with self._asked("GET", path) as answer:
            return self._document(path, answer, [HTTPStatus.OK])

    def _act(
        self,
        path: str,
        usual: list[HTTPStatus],
        form: Mapping[str, str] | None = None,
        timeout: float | None = None,
        authorization: str | None = None,
    ) -> Document:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if authorization is not None:
            headers["Authorization"] = authorization
        body = urlencode(form or {})
        with self._asked("POST", path, timeout, body, headers) as answer:
            if answer.status != HTTPStatus.UNAUTHORIZED:
                return self._document(path, answer, usual)
            wanted = answer.headers.get("WWW-Authenticate", "")
        if authorization is not None:
            raise AgentFailed("The password is wrong.")
        if not wanted.lower().startswith("basic"):
            raise AgentFailed(f"{self._url} wants to know who you are in a way that no box does.")
        known = base64.b64encode(b":" + self._password()).decode()
        return self._act(path, usual, form, timeout, f"Basic {known}")

    @contextmanager
    def _asked(
        self,
        method: str,
        path: str,
        timeout: float | None = None,
        body: str | None = None,
        headers: Mapping[str, str] | None = None,
        is_stream: bool = False,
    ) -> Iterator[HTTPResponse]:
        """
        Send a request, and give the answer.

        :param timeout: seconds within which it has to be whole, or that a stream may be silent.
        """
        timeout = timeout or self._timeout
        connection = self._connect(*self._address, timeout=timeout)
        sent = {"User-Agent": f"opq-box/{__version__}", **(headers or {})}
        try:
            connection.connect()
            self._require_agent(connection.sock)
            with nullcontext() if is_stream else _deadline(connection.sock, timeout):
                connection.request(method, self._path + path, body, sent)
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
        """
        Tell nothing, and believe nothing, where a program of another user has taken the port.

        :raises AgentFailed: when it has.
        """
        user = foreign_listener(connected)
        if user is not None:
            raise AgentFailed(
                f"A program of the user {user} answers at {self._url}, and not the box's agent, "
                "which goes on without its page: end that program, or run opq-box as that user."
            )

    def _document(self, path: str, answer: HTTPResponse, usual: list[HTTPStatus]) -> Document:
        if answer.status not in usual:
            raise self._refusal(path, answer)
        return self._parse(answer.read(_LARGEST))

    def _parse(self, data: bytes) -> Document:
        try:
            return Document.parse(data)
        except ValueError:
            raise self._no_agent("not as an agent does") from None

    def _refusal(self, path: str, answer: HTTPResponse) -> AgentFailed:
        """Word an answer that is none, in the agent's own words where it has some."""
        content = answer.read(_LARGEST)
        with suppress(ValueError):
            if said := Document.parse(content).text("status"):
                return AgentFailed(said)
        if answer.status == HTTPStatus.NOT_FOUND:
            return AgentFailed(
                f"{self._url} knows no {path}: it is no box's agent, or one of an older release."
            )
        text = Document({"said": content.decode("utf-8", "replace")}).text("said")
        if text and answer.headers.get_content_type() == "text/plain":
            return AgentFailed(f"{self._url} answers {answer.status}: {text}")
        return self._no_agent(f"{answer.status}, and not as an agent does")

    def _away(self, how: str) -> AgentAway:
        return AgentAway(
            f"No agent answers at {self._url} {how}: see whether the box runs, and opq-box-agent "
            "on it, or name another box with --url."
        )

    def _no_agent(self, what: str) -> AgentFailed:
        return AgentFailed(
            f"{self._url} answers {what}: name the box's agent with --url, as "
            "http://192.168.1.20:8080."
        )


def _events(answer: HTTPResponse) -> Iterator[bytes]:
    """Give the data of each event that has no name: others are signs of life."""
    named = False
    while line := answer.readline(_LARGEST):
        field, _, value = line.strip().partition(b":")
        if field == b"event":
            named = True
        elif field == b"data" and not named:
            yield value
        elif not line.strip():
            named = False


@contextmanager
def _deadline(connected: socket.socket, timeout: float) -> Iterator[None]:
    """
    Cut a connection off after so many seconds, however much it drips.

    :raises TimeoutError: when that has broken what was done with it.
    """
    late = Event()

    def cut() -> None:
        late.set()
        with suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)

    timer = Timer(timeout, cut)
    timer.start()
    try:
        yield
    except (OSError, HTTPException, AgentFailed):
        if late.is_set():
            raise TimeoutError from None
        raise
    finally:
        timer.cancel()
