"""An HTTP client for the Unix socket of the update server."""

import grp
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlencode

from opq_twisted import __version__
from opq_twisted.cli.deadline import deadline
from opq_twisted.cli.untrusted_json import Document
from opq_twisted.common.errors import OpqError

#: An answer must be complete within so many seconds: a large database may be slow.
_TIMEOUT = 30.0

#: The limit of bytes of an answer.
_MAX_SIZE = 8 << 20


_POSITION = re.compile(r"[0-9]{1,6}", re.ASCII)


class FleetFailed(OpqError):
    """The server refused a request, or does not answer it as an update server does."""


class KeysRefused(FleetFailed):
    """The server has admitted no key, because some are wrong."""

    def __init__(self, sentence: str, mistakes: Mapping[int, str]) -> None:
        """:param mistakes: sentences by the position of the key, from 0."""
        super().__init__(sentence)
        self.mistakes = mistakes


class FleetClient:
    """
    Sends requests to the server of one socket, each over its own connection.

    All methods raise `FleetFailed` if there is no usable answer.
    """

    def __init__(self, path: str, timeout: float = _TIMEOUT) -> None:
        """
        Make a client of a socket.

        :param timeout: seconds within which an answer must be complete.
        """
        self._path = path
        self._timeout = timeout

    def get(self, resource: str, /, **query: object) -> Document:
        """Send a GET request; parts of the query that are None are left out."""
        given = {key: value for key, value in query.items() if value is not None}
        return self._exchange("GET", f"/{resource}?{urlencode(given)}", None)

    def pages(self, resource: str, items: str, key: str, **query: object) -> Iterator[Document]:
        """
        Yield the items of all pages; each page is requested when it is needed.

        :param items: the field of the answer with the items of a page.
        :param key: the field of the query that continues after the last item's `id`.
        """
        last: int | None = None
        while True:
            page = self.get(resource, **query, **{key: last})
            found = page.parts(items)
            yield from found
            if not found or not page.flag("more"):
                return
            before, last = last, found[-1].integer("id")
            if last is None or last == before:
                raise self._not_a_server()

    def attempts(self) -> Iterator[Document]:
        """Yield the attempts of all boxes, as `pages` does."""
        last: tuple[int, str] | None = None
        while True:
            box, attempt_id = last or (None, None)
            page = self.get("attempts", after=box, after_attempt=attempt_id)
            found = page.parts("attempts")
            yield from found
            if not found or not page.flag("more"):
                return
            before, last = last, (found[-1].integer("box") or 0, found[-1].text("attempt_id"))
            if last == before:
                raise self._not_a_server()

    def post(self, resource: str, /, **content: object) -> Document:
        """Send a POST request, which changes something."""
        return self._exchange("POST", f"/{resource}", json.dumps(content).encode())

    def _exchange(self, method: str, path: str, body: bytes | None) -> Document:
        connection = _UnixConnection("localhost", timeout=self._timeout)
        try:
            connection.sock = self._connect()
            with deadline(connection.sock, self._timeout):
                headers = {
                    "User-Agent": f"opq-fleet/{__version__}",
                    "Content-Type": "application/json",
                }
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                content = response.read(_MAX_SIZE)
        except TimeoutError:
            raise FleetFailed(
                f"The update server at {self._path} does not answer within "
                f"{self._timeout:.0f} seconds: see its log.{_hint_after(body)}"
            ) from None
        except OSError as error:
            raise FleetFailed(
                f"The update server at {self._path} has broken the connection "
                f"({error.strerror or error}): see its log.{_hint_after(body)}"
            ) from None
        except HTTPException:
            raise self._not_a_server() from None
        finally:
            connection.close()
        return self._document(response.status, content)

    def _connect(self) -> socket.socket:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.settimeout(self._timeout)
        try:
            connected.connect(self._path)
        except PermissionError:
            connected.close()
            raise FleetFailed(self._forbidden()) from None
        except (OSError, ValueError) as error:
            connected.close()
            why = getattr(error, "strerror", None) or str(error)
            raise FleetFailed(
                f"No update server listens at {self._path} ({why}): see whether it runs with "
                "--fleet-db, or name the socket of --fleet-socket with --socket."
            ) from None
        return connected

    def _forbidden(self) -> str:
        group = ""
        with suppress(OSError, KeyError):
            group = f" {grp.getgrgid(os.stat(self._path).st_gid).gr_name}"
        return (
            f"You may not use {self._path}: only root, the server's user and the members of its "
            f"group{group} may."
        )

    def _document(self, status: int, content: bytes) -> Document:
        try:
            document = Document.parse(content)
        except ValueError:
            raise self._not_a_server() from None
        if status == HTTPStatus.OK:
            return document
        sentence = document.text("error")
        if not sentence:
            raise self._not_a_server()
        if "mistakes" in document.content:
            raise KeysRefused(sentence, _mistakes(document.part("mistakes")))
        raise FleetFailed(sentence)

    def _not_a_server(self) -> FleetFailed:
        return FleetFailed(
            f"The program at {self._path} does not answer as an update server does: name the "
            "socket of --fleet-socket with --socket."
        )


def _hint_after(body: bytes | None) -> str:
    return "" if body is None else " opq-fleet audit shows whether the change was made."


class _UnixConnection(HTTPConnection):
    def connect(self) -> None:
        """Do nothing: the socket is connected already."""


def _mistakes(found: Document) -> Mapping[int, str]:
    return {int(name): found.text(name) for name in found.content if _POSITION.fullmatch(name)}
