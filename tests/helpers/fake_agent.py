"""A fake of a box's agent for tests of opq-box, which answers as the test tells it."""

import base64
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qs

from tests.helpers.box_fakes import OLD

#: The status of a new box.
IDLE: dict[str, Any] = {
    "installed": OLD,
    "available": None,
    "update_available": False,
    "held": False,
    "stage": "idle",
    "progress": None,
    "message": "",
    "unsigned": False,
    "last_check": None,
    "next_check": None,
    "last_attempt": None,
}


class FakeAgent(ThreadingHTTPServer):
    """Listens on loopback from its creation to `close`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = dict(IDLE)
        #: The changes of the status by a check.
        self.found: dict[str, Any] = {}
        #: The steps of an update: changes of the status, or the number of connections that are
        #: reset while the agent is away.
        self.course: list[dict[str, Any] | int] = []
        self._absences = 0
        #: Whether it has an event stream.
        self.has_events = True
        self.log = b""
        #: Whether the log is always sent whole, as an empty one is.
        self.has_whole_log_only = False
        self.history: dict[str, Any] = {"attempts": [], "refused": []}
        self.report: dict[str, Any] = {"fingerprint": None, "last": None}
        self.password: bytes | None = None
        #: Responses, byte for byte, by path.
        self.raw: dict[str, bytes] = {}
        #: Sent repeatedly every few milliseconds after such a response; None to end it.
        self.drop: bytes | None = None
        #: The requests so far: method and path.
        self.asked: list[str] = []
        #: Set when a client follows, and at `close`.
        self.followed, self.closing = Event(), Event()
        self._thread = Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        """The URL of the agent."""
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        """Stop listening."""
        self.closing.set()
        self.shutdown()
        self.server_close()
        self._thread.join()

    def verify_request(self, request: object, client_address: object) -> bool:
        """Reset connections while the agent is away."""
        if self._absences == 0:
            return True
        self._absences -= 1
        return False

    def advance(self) -> bool:
        """Take the next step of the update; return whether the agent is still there."""
        step = self.course.pop(0)
        if isinstance(step, int):
            self._absences = step
            return False
        self.status |= step
        return True

    def handle_error(self, request: object, client_address: object) -> None:
        """Do nothing: the client did not wait for the response."""


class FakeClock:
    """A clock whose `sleep` returns at once."""

    def __init__(self) -> None:
        self.naps: list[float] = []
        self._now = 0.0

    def monotonic(self) -> float:
        """Return the number of seconds slept."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Advance the clock."""
        self.naps.append(seconds)
        self._now += seconds


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: FakeAgent

    def do_GET(self) -> None:
        if not self._answer_raw():
            path = self.path.removeprefix("/")
            if path == "events" and self.server.has_events:
                self._send_events()
            elif path == "status":
                if not self.server.has_events and self.server.course:
                    self.server.advance()
                self._json(200, self.server.status)
            elif path == "history":
                self._json(200, self.server.history)
            elif path == "report":
                self._json(200, self.server.report)
            elif path == "log":
                self._send_log()
            else:
                self._send(404, b"There is nothing here.\n", "text/plain; charset=utf-8")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self._answer_raw():
            return
        given = self.headers.get("Authorization", "").removeprefix("Basic ")
        password = base64.b64decode(given).partition(b":")[2]
        if self.server.password not in (None, password):
            wanted = {"WWW-Authenticate": 'Basic realm="box"'}
            self._json(401, {"status": "This box wants a password."}, wanted)
        elif self.path == "/check":
            self.server.status |= self.server.found
            keys = ("installed", "available")
            said = {key: self.server.status[key] for key in keys}
            self._json(200, {**said, "status": self.server.status["message"]})
        elif self.path == "/box_update":
            self._begin_update()
        elif self.path == "/forgive":
            self._forgive(int(parse_qs(body)["release"][0]))
        else:
            self._send(404, b"There is nothing here.\n", "text/plain; charset=utf-8")

    def _begin_update(self) -> None:
        if self.server.status["stage"] not in ("idle", "failed"):
            self._json(409, {"status": "An update is under way already.", "stage": "any"})
        elif self.server.course:
            self.server.advance()
            self._json(202, {"status": "The update has begun.", "stage": "any"})
        else:
            self._json(200, {"status": "The box is up to date.", "stage": "idle"})

    def _forgive(self, release: int) -> None:
        refused = self.server.history["refused"]
        left = [item for item in refused if item["version"] != release]
        self.server.history["refused"] = left
        if len(left) == len(refused):
            self._json(404, {"status": f"Release {release} is not blocked."})
        else:
            self._json(200, {"status": f"Release {release} is forgiven."})

    def _send_events(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self._send_event()
        self.server.followed.set()
        while self.server.course:
            if not self.server.advance():
                return
            self.wfile.write(b": \nevent: alive\ndata: \n\n")
            self._send_event()
        self.server.closing.wait()

    def _send_event(self) -> None:
        self.wfile.write(b"data: %b\n\n" % json.dumps(self.server.status).encode())

    def _send_log(self) -> None:
        found = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])
        assert found is not None
        start, size = int(found[1]), len(self.server.log)
        if self.server.has_whole_log_only:
            self._send(200, self.server.log, "text/plain; charset=utf-8")
        elif start >= size:
            self._send(416, b"", "text/plain", {"Content-Range": f"bytes */{size}"})
        else:
            span = {"Content-Range": f"bytes {start}-{size - 1}/{size}"}
            self._send(206, self.server.log[start:], "text/plain; charset=utf-8", span)

    def _answer_raw(self) -> bool:
        self.server.asked.append(f"{self.command} {self.path}")
        raw = self.server.raw.get(self.path)
        self.wfile.write(raw or b"")
        while raw is not None and self.server.drop is not None:
            self.wfile.write(self.server.drop)
            if self.server.closing.wait(0.005):
                break
        return raw is not None

    def _json(self, code: int, content: object, headers: dict[str, str] | None = None) -> None:
        self._send(code, json.dumps(content).encode() + b"\n", "application/json", headers)

    def _send(
        self, code: int, body: bytes, kind: str, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(code)
        lines = {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}
        for key, value in lines.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep silent."""
