"""The page of the fleet on a database of a test, with connections in memory."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from opq_twisted.fleet.control.changes import Changes
from opq_twisted.fleet.control.queries import Queries
from opq_twisted.fleet.engine.judge import Judge
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.settings import PageSettings
from opq_twisted.fleet.store.database import Database
from opq_twisted.fleet.web.operators import Operator, Role, TokenHash
from opq_twisted.fleet.web.site import FleetPage
from opq_twisted.fleet.widen_hours import WidenHours
from opq_twisted.http.connection_limits import ConnectionLimits
from tests.helpers.fleet_control import DatabaseInPlace
from tests.helpers.fleet_rows import NOW
from tests.helpers.http_exchange import Connection, ReactorClock, Response

#: The tokens of two programs, and the headers of a browser.
OPERATOR, VIEWER = "Authorization: Bearer operator", "Authorization: Bearer viewer"
BROWSER = (
    "Accept: text/html,application/xhtml+xml",
    "User-Agent: Mozilla/5.0 (X11; Linux)",
    "Origin: http://fleet.example",
)


class Page:
    """Sends requests to the page."""

    def __init__(self, database: Database, operators: Path) -> None:
        """:param operators: the file to be made."""
        self.file = operators
        lines = (
            Operator("anna", Role.OPERATOR, TokenHash.of("operator")),
            Operator("vera", Role.VIEWER, TokenHash.of("viewer")),
        )
        operators.write_text("".join(f"{each}\n" for each in lines))
        operators.chmod(0o640)
        self.clock = ReactorClock()
        self.database = DatabaseInPlace(database)
        #: How often a timestamp with a new pace was asked for.
        self.changed = 0
        judge = Judge(mode="off", timing=Timing(), hours=WidenHours())
        self.service = FleetPage(
            self.clock,
            PageSettings(operators=operators, hosts=("fleet.example",), limits=ConnectionLimits()),
            self.database,  # type: ignore[arg-type]
            judge,
            Queries(lambda: NOW, lambda: 3, judge),
            Changes(lambda: NOW, self._pace_changed),
            lambda: NOW,
        )

    def _pace_changed(self) -> bool:
        self.changed += 1
        return True

    def start_counting(self) -> None:
        """Count now and then; nothing listens."""
        self.service.current.startService()
        self.clock.turn()

    def connect(self) -> Connection:
        """Open a connection."""
        site = self.service.site
        return Connection(site.resource, site)

    def get(self, path: str, *headers: str, host: str = "fleet.example") -> Response:
        """Send a GET."""
        return self.send("GET", path, *headers, host=host)

    def json(self, path: str, *headers: str) -> Any:
        """Return what a program gets."""
        return json.loads(self.get(path, *(headers or (VIEWER,))).body)

    def post(self, path: str, *headers: str, **form: object) -> Response:
        """Send a form."""
        return self.send("POST", path, *headers, body=urlencode(form))

    def send(
        self,
        method: str,
        path: str,
        *headers: str,
        body: str = "",
        host: str = "fleet.example",
        kind: str = "application/x-www-form-urlencoded",
    ) -> Response:
        """Send a request of any kind."""
        connection = self.connect()
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {host}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            *headers,
            "",
            body,
        ]
        connection.channel.dataReceived("\r\n".join(lines).encode("latin-1"))
        return connection.response(method)
