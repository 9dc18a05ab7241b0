"""A fake of the update server's socket, which answers opq-fleet as the test tells it."""

import json
import socket
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit


class FakeFleetServer:
    """Listens on a Unix socket from its creation to `close`; answers one client at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: The content of the answer, by resource; for a list each answer is the next item.
        self.answers: dict[str, Any] = {}
        self.status = 200
        #: Sent instead of any answer; None to send nothing.
        self.raw: bytes | None = b""
        #: Sent again and again after that.
        self.drop = b""
        #: The requests so far: the resource, and its query or body.
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            with client, suppress(OSError):
                self._answer(client)

    def _answer(self, client: socket.socket) -> None:
        with client.makefile("rb") as received:
            _, target, _ = received.readline().decode().split(" ", 2)
            length = 0
            while line := received.readline().strip():
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            body = json.loads(received.read(length)) if length else {}
            parts = urlsplit(target)
            self.asked.append((parts.path[1:], body or dict(parse_qsl(parts.query))))
            if self.raw is None:
                # Until the client goes away.
                received.read(1)
                return
            client.sendall(self.raw or self._content(parts.path[1:]))
            while self.drop:
                client.sendall(self.drop)

    def _content(self, resource: str) -> bytes:
        content = self.answers.get(resource, {})
        if isinstance(content, list):
            content = content.pop(0)
        body = json.dumps(content).encode()
        return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (self.status, len(body), body)
