"""Sends a report, and sends it again if the server wants it in another form."""

from collections.abc import Callable
from typing import Protocol

from attrs import evolve, frozen
from twisted.web.http import (
    CONFLICT,
    REQUEST_ENTITY_TOO_LARGE,
    UNAUTHORIZED,
)

from opq_twisted.box.network.report_client import Answer, ReportClient
from opq_twisted.box.report.answers import Result, Verdict, judge, read_seq
from opq_twisted.box.report.identity import Identity
from opq_twisted.box.report.record import ReportRecord, SentReport
from opq_twisted.box.state.journal import Journal
from opq_twisted.common.errors import ServerFailed
from opq_twisted.report.document import MAX_ATTEMPTS, Report

#: How often a report is sent in a row: the first request, one with the public key, two with fewer
#: attempts, and two with another sequence number.
_MAX_REQUESTS = 6


class ReportComposer(Protocol):
    """`Composer`, which makes the reports."""

    def compose(self, seq: int, introduce: bool = False, most: int = MAX_ATTEMPTS) -> Report:
        """See `Composer.compose`."""


@frozen
class _Form:
    """The form in which a report is composed."""

    #: Whether it has the public key.
    introduce: bool = False
    most: int = MAX_ATTEMPTS
    #: Whether the attempts have been halved.
    is_halved: bool = False

    def with_fewer_attempts(self, now: int) -> "_Form":
        """Return the form for a report with half of these attempts, or with one."""
        most = 1 if self.is_halved else max(1, now // 2)
        return evolve(self, most=most, is_halved=True)


class Exchange:
    """Composes a report, signs it, and sends it with the next sequence number."""

    def __init__(
        self,
        composer: ReportComposer,
        identity: Identity,
        client: ReportClient,
        journal: Journal,
        record: ReportRecord,
        now: Callable[[], float],
    ) -> None:
        """
        :param journal: has the sequence number of the last report.
        :param record: gets each report when it is sent, and its answer.
        :param now: the time of day, in seconds since the epoch.
        """
        self._composer = composer
        self._identity = identity
        self._client = client
        self._journal = journal
        self._record = record
        self._now = now

    async def send(self) -> Result:
        """Send a report, and again if the server wants it in another form."""
        result, form = await self._send_once(_Form())
        requests = 1
        while form is not None and requests < _MAX_REQUESTS:
            result, form = await self._send_once(form)
            requests += 1
        return result

    async def _send_once(self, form: _Form) -> tuple[Result, _Form | None]:
        """Send a report; returns the result, and the form that the server wants it in instead."""
        self._journal.seq += 1
        report = self._composer.compose(self._journal.seq, form.introduce, form.most)
        body = report.to_json()
        self._keep(body, "It has not been answered yet.")
        try:
            answer = await self._client.send(body, self._identity.sign(body))
        except ServerFailed as error:
            result, next_form = Result(Verdict.FAILED, report, str(error)), None
        else:
            result = judge(report, answer)
            next_form = self._next_form(report, answer, form)
        self._keep(body, result.sentence)
        return result, next_form

    def _keep(self, body: bytes, answer: str) -> None:
        self._record.last = SentReport(body.decode(), self._now(), answer)

    def _next_form(self, report: Report, answer: Answer, form: _Form) -> _Form | None:
        attempts = len(report.attempts)
        if answer.status == UNAUTHORIZED and not form.introduce:
            return evolve(form, introduce=True)
        if answer.status == REQUEST_ENTITY_TOO_LARGE and attempts > 1:
            return form.with_fewer_attempts(attempts)
        if answer.status == CONFLICT:
            known = read_seq(answer.body)
            if known is not None:
                # Also a smaller one: otherwise a damaged journal, or a forged answer, could bring
                # the box to a number that no server takes, for ever.
                self._journal.seq = known
                return form
        return None
