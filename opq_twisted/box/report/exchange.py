"""Sends one report, as often as the server's answers require, and reads the last answer."""

from collections.abc import Callable, Collection
from enum import Enum, auto
from typing import Any, Protocol

from attrs import evolve, frozen
from twisted.web.http import (
    BAD_REQUEST,
    CONFLICT,
    FORBIDDEN,
    NOT_ALLOWED,
    NOT_FOUND,
    OK,
    REQUEST_ENTITY_TOO_LARGE,
    SERVICE_UNAVAILABLE,
    UNAUTHORIZED,
)

from opq_twisted.box.network.report_client import Answer, ReportClient
from opq_twisted.box.report.identity import Identity
from opq_twisted.box.report.record import ReportRecord, SentReport
from opq_twisted.box.state.journal import Journal
from opq_twisted.common import strict_json
from opq_twisted.common.errors import ServerFailed
from opq_twisted.report.document import MAX_ATTEMPTS, Report

#: How often a report is sent in a row: the first request, one with the public key, two with fewer
#: attempts, and two with another sequence number.
_MAX_REQUESTS = 6

_TOO_MANY_REQUESTS = 429


class Verdict(Enum):
    """What becomes of a report."""

    ACCEPTED = auto()
    #: It is not sent again while its content is the same.
    REFUSED = auto()
    #: The server takes no reports.
    NO_FLEET = auto()
    FAILED = auto()


@frozen
class Result:
    """The end of an exchange."""

    verdict: Verdict
    #: The report that was sent last.
    report: Report
    #: The answer in a sentence.
    sentence: str
    #: The attempts of the report that the server has stored with their outcomes.
    done: tuple[str, ...] = ()
    #: Seconds for which the server wants no report.
    retry_after: float = 0.0


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
            result = self._judge(report, answer)
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
            known = _read_seq(answer.body)
            if known is not None:
                # Also a smaller one: otherwise a damaged journal, or a forged answer, could bring
                # the box to a number that no server takes, for ever.
                self._journal.seq = known
                return form
        return None

    def _judge(self, report: Report, answer: Answer) -> Result:
        verdict, sentence = Verdict.FAILED, _describe(answer.status, report.key)
        done: tuple[str, ...] = ()
        if answer.status == OK:
            said = _read_done(answer.body)
            if said is None:
                sentence = "The answer is not that of an update server; a login may be missing."
            else:
                verdict = Verdict.ACCEPTED
                done = _ended_among(report, said)
        elif answer.status == BAD_REQUEST:
            verdict = Verdict.REFUSED
        elif answer.status in (NOT_FOUND, NOT_ALLOWED):
            verdict = Verdict.NO_FLEET
        return Result(verdict, report, sentence, done, answer.retry_after)


def _describe(status: int, fingerprint: str) -> str:
    sentences = {
        OK: "The update server has accepted it.",
        BAD_REQUEST: "The update server does not understand it.",
        UNAUTHORIZED: "The update server does not know the key of this box, and does not take it.",
        FORBIDDEN: "The update server does not admit the key of this box. Its operator can admit "
        f"the fingerprint {fingerprint}.",
        NOT_FOUND: "The update server takes no reports; the box asks again in a day.",
        CONFLICT: "The update server has reports of this box with other numbers.",
        REQUEST_ENTITY_TOO_LARGE: "The update server finds it too large.",
        _TOO_MANY_REQUESTS: "The update server is busy; the box reports again later.",
    }
    sentences[NOT_ALLOWED] = sentences[NOT_FOUND]
    sentences[SERVICE_UNAVAILABLE] = sentences[_TOO_MANY_REQUESTS]
    return sentences.get(status) or f"The update server answers {status}."


def _ended_among(report: Report, ids: Collection[Any]) -> tuple[str, ...]:
    """Return the attempts of a report that have an outcome and are among these ids."""
    ended = (each.id for each in report.attempts if each.outcome is not None)
    return tuple(each for each in ended if each in ids)


def _read_done(body: bytes) -> list[Any] | None:
    """Read the ids in the answer to a report that is stored; None if it is not such an answer."""
    done = _read_object(body).get("done")
    return done if isinstance(done, list) else None


def _read_seq(body: bytes) -> int | None:
    """Read the sequence number that the server knows; None if it is not possible."""
    seq = _read_object(body).get("seq")
    return seq if type(seq) is int and 0 <= seq < strict_json.MAX_NUMBER else None


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        content = strict_json.parse(body)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
