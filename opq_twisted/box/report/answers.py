"""Reads the answers of the update server to reports."""

from collections.abc import Collection
from enum import Enum, auto
from typing import Any

from attrs import frozen
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

from opq_twisted.box.network.report_client import Answer
from opq_twisted.common import strict_json
from opq_twisted.report.document import Report

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


def judge(report: Report, answer: Answer) -> Result:
    """Say what an answer means for a report."""
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


def read_seq(body: bytes) -> int | None:
    """Read the sequence number that the server knows; None without a possible one."""
    seq = _read_object(body).get("seq")
    return seq if type(seq) is int and 0 <= seq < strict_json.MAX_NUMBER else None


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        return strict_json.parse_object(body)
    except ValueError:
        return {}
