"""Describes rollouts as JSON: their shares, the results of boxes, and the engine's judgement."""

from collections.abc import Iterator, Sequence

from attrs import evolve
from sqlalchemy import Connection

from opq_twisted.fleet.control.answers import Content
from opq_twisted.fleet.engine.assessment import Assessment
from opq_twisted.fleet.engine.judge import Judge
from opq_twisted.fleet.queries.outcomes import (
    SILENT,
    UNCLEAR,
    UNDER_WAY,
    Result,
    count_results,
    merge,
)
from opq_twisted.fleet.queries.silence import Silence
from opq_twisted.fleet.rollouts.rollout import Rollout
from opq_twisted.report.codes import Outcome


def describe(each: Rollout) -> Content:
    """Return a rollout as JSON."""
    return {
        "channel": each.channel,
        "release": each.release,
        "state": each.state.value,
        "bp": each.bp,
        "ceiling_bp": each.ceiling_bp,
        "critical": each.critical,
        "announced_at": each.announced_at,
        "since": each.since,
        "acknowledged_at": each.acknowledged_at,
        "sentence": each.sentence,
    }


def describe_rollouts(
    connection: Connection,
    rollouts: Sequence[Rollout],
    now: float,
    judge: Judge,
    silence: Silence,
) -> list[Content]:
    """
    Return rollouts as JSON, with the results of their boxes and the engine's assessment.

    :param silence: says which boxes are silent; from `judge`.
    """
    if not rollouts:
        return []
    releases = {each.release for each in rollouts}
    judged = {
        (each.rollout.channel, each.rollout.release): each
        for each in judge.assess(connection, now, releases)
    }
    described = []
    for each in rollouts:
        assessment = judged.get((each.channel, each.release))
        if assessment is None:
            found = merge(count_results(connection, each.release, each.channel, silence))
        else:
            found = list(_with_unclear(merge(assessment.results), assessment))
        described.append(_describe(each, found, assessment))
    return described


def _describe(each: Rollout, shown: Sequence[Result], judged: Assessment | None) -> Content:
    return {
        **describe(each),
        "outcomes": [
            {
                "outcome": found.outcome,
                "reason": found.reason,
                "boxes": found.boxes,
                "bad": found.is_bad,
            }
            for found in shown
        ],
        "assessment": None if judged is None else judged.to_json(),
        # The boxes whose results are shown, but do not count in the assessment.
        "not_judged": None if judged is None else _count(shown) - judged.evidence.boxes,
    }


def _with_unclear(results: Sequence[Result], judged: Assessment) -> Iterator[Result]:
    """Replace `silent` by `unclear` for boxes that the network may have silenced."""
    unclear, is_any_silent = judged.evidence.unclear, judged.evidence.bad_by_reason.get(SILENT)
    for each in results:
        if each.outcome != SILENT or not unclear:
            yield each
            continue
        silent = each.boxes - unclear if is_any_silent else 0
        if silent:
            yield evolve(each, boxes=silent)
        yield evolve(each, outcome=UNCLEAR, boxes=each.boxes - silent)


def _count(results: Sequence[Result]) -> int:
    """Count the boxes that began to install the release, or are about to."""
    began = (Outcome.UPDATED, UNDER_WAY, UNCLEAR)
    return sum(each.boxes for each in results if each.is_bad or each.outcome in began)
