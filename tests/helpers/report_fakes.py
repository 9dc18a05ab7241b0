"""Fakes of what the box's reports need: their content, and the server that answers them."""

import json
from collections.abc import Callable
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred

from opq_twisted.box.network.report_client import Answer, ReportClient
from opq_twisted.common.errors import ServerFailed
from opq_twisted.report.document import MAX_ATTEMPTS, AttemptReport, Report
from opq_twisted.report.parse import parse as parse_report
from tests.helpers.example_report import REPORT

PUBKEY = "cd" * 32


class FakeComposer:
    """Composes a report with the attempts that the test gives."""

    def __init__(self, key: str = "ab" * 16) -> None:
        self.report = evolve(REPORT, key=key, seq=0)
        #: Whether the server has an attempt with its outcome, so that it is left out.
        self.is_reported: Callable[[str], bool] = lambda _: False
        #: Raised instead of composing, if it is not None.
        self.error: Exception | None = None

    def change(self, **fields: Any) -> None:
        """Let something be new."""
        self.report = evolve(self.report, **fields)

    def compose(self, seq: int, introduce: bool = False, most: int = MAX_ATTEMPTS) -> Report:
        """Compose the report of the test."""
        if self.error is not None:
            raise self.error
        left = [each for each in self.report.attempts if not self.is_reported(each.id)]
        attempts = tuple(left[-most:])
        pubkey = PUBKEY if introduce else None
        return evolve(self.report, seq=seq, attempts=attempts, pubkey=pubkey)


class FakeClient(ReportClient):
    """A server that answers each report as the test says."""

    def __init__(self) -> None:
        #: The reports, and their signatures.
        self.bodies: list[tuple[bytes, str]] = []
        self._waiting: Deferred[Answer] | None = None
        #: Whether the last request was cancelled.
        self.is_cancelled = False

    async def send(self, body: bytes, signature: str) -> Answer:
        """Wait for the test's answer."""
        assert self._waiting is None, "one request at a time"
        self.bodies.append((body, signature))
        self._waiting = Deferred(self._cancel)
        return await self._waiting

    def _cancel(self, _: object) -> None:
        self.is_cancelled, self._waiting = True, None

    @property
    def reports(self) -> list[Report]:
        """The reports so far."""
        return [parse_report(body) for body, _ in self.bodies]

    @property
    def is_asked(self) -> bool:
        """Whether a report waits for its answer."""
        return self._waiting is not None

    def answer(self, status: int, retry_after: float = 0.0, **content: Any) -> None:
        """Answer with this status and JSON object."""
        self.answer_raw(status, json.dumps(content).encode(), retry_after)

    def answer_raw(self, status: int, body: bytes, retry_after: float = 0.0) -> None:
        """Answer with these bytes."""
        self._take().callback(Answer(status, body, retry_after))

    def accept(self, *done: str) -> None:
        """Accept the report, and these attempts with their outcomes."""
        self.answer(200, seq=self.reports[-1].seq, done=list(done))

    def fail(self, sentence: str = "Cannot reach the update server.") -> None:
        """Do not answer."""
        self._take().errback(ServerFailed(sentence))

    def _take(self) -> Deferred[Answer]:
        waiting, self._waiting = self._waiting, None
        assert waiting is not None, "no report waits for an answer"
        return waiting


def attempt(number: int, outcome: str | None = "updated", **fields: Any) -> AttemptReport:
    """Make an attempt."""
    return AttemptReport(
        **{
            "id": f"{number:032x}",
            "release": 1700000100,
            "previous": 1700000000,
            "began": 1700000200,
            "took": 412,
            "automatic": True,
            "stage": "idle",
            "outcome": outcome,
            **fields,
        }
    )
