"""Counts boxes, attempts, rollouts and messages in the database, for the metrics."""

from collections import Counter
from collections.abc import Mapping, Sequence

from attrs import Factory, frozen
from sqlalchemy import Connection, func, select

from opq_twisted.fleet.engine.assessment import Assessment
from opq_twisted.fleet.engine.judge import Judge
from opq_twisted.fleet.rollouts.rollout import Rollout, find
from opq_twisted.fleet.store.schema import attempt, box, engine, notice, rollout
from opq_twisted.fleet.store.states import RolloutState
from opq_twisted.fleet.store.unindexed import unindexed
from opq_twisted.report.codes import Outcome
from opq_twisted.trust.offer import STABLE

#: Rollouts with a series of their own.
_MAX_ROLLOUTS = 50


@frozen(kw_only=True)
class Figures:
    """The results of a count in the database."""

    #: Keys by channel and state.
    boxes: Mapping[tuple[str, str], int] = Factory(dict)
    #: Attempts by release and outcome.
    outcomes: Mapping[tuple[int, str], int] = Factory(dict)
    #: The rollouts that are not superseded.
    rollouts: Sequence[Rollout] = ()
    #: The engine's judgements of these rollouts; empty with `--rollouts off`.
    assessments: Sequence[Assessment] = ()
    #: When an engine last ran, in seconds since the epoch; None if the mode is `off`.
    engine_ran_at: float | None = None
    #: The number of messages that wait for the webhook.
    messages: int = 0


def count_fleet(connection: Connection, judge: Judge, now: float) -> Figures:
    """
    Count everything that the metrics show.

    :param now: seconds since the epoch.
    """
    rollouts = find(connection, rollout.c.state != RolloutState.SUPERSEDED)[:_MAX_ROLLOUTS]
    releases = {each.release for each in rollouts}
    return Figures(
        boxes=_count_boxes(connection, {STABLE, *(each.channel for each in rollouts)}),
        outcomes=_count_outcomes(connection, releases),
        rollouts=rollouts,
        assessments=judge.assess(connection, now, releases),
        engine_ran_at=None
        if judge.mode == "off"
        else connection.scalar(select(func.max(engine.c.ran_at))),
        messages=connection.execute(select(func.count()).select_from(notice)).scalar_one(),
    )


def _count_boxes(connection: Connection, named: set[str]) -> Mapping[tuple[str, str], int]:
    """Count keys. Channels that are not in `named` count together: a box can report any word."""
    keys = unindexed(box.c.channel), box.c.state
    query = select(*keys, func.count()).group_by(*keys)
    counts: Counter[tuple[str, str]] = Counter()
    for channel, state, number in connection.execute(query):
        known = "unknown" if channel is None else channel if channel in named else "other"
        counts[known, state] += number
    return counts


def _count_outcomes(connection: Connection, releases: set[int]) -> Mapping[tuple[int, str], int]:
    query = (
        select(attempt.c.release, attempt.c.outcome, func.count())
        .where(attempt.c.release.in_(releases))
        .group_by(attempt.c.release, attempt.c.outcome)
    )
    counts: Counter[tuple[int, str]] = Counter()
    for release, outcome, number in connection.execute(query):
        counts[release, _outcome_label(outcome)] += number
    return counts


def _outcome_label(outcome: str | None) -> str:
    if outcome is None:
        return "under-way"
    return outcome if outcome in set(Outcome) else "other"
