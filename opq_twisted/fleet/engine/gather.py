"""Gathers the facts about each rollout from the database, and judges it."""

from collections.abc import Collection, Iterable, Sequence

from attrs import frozen
from sqlalchemy import ColumnElement, Connection

from opq_twisted.fleet.engine.assessment import Assessment, PreviousRelease
from opq_twisted.fleet.engine.control_group import ControlGroup, Controls, read_control_group
from opq_twisted.fleet.engine.counted import (
    count_drawn,
    count_too_early,
    counts_in,
    read_results,
    sum_up,
)
from opq_twisted.fleet.engine.decision import Circumstances, decide
from opq_twisted.fleet.engine.evidence import Evidence
from opq_twisted.fleet.engine.hearing import Hearing, read_hearing
from opq_twisted.fleet.engine.previous_release import PreviousReleases
from opq_twisted.fleet.engine.sequential_test import SequentialTest
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.queries.outcomes import Result
from opq_twisted.fleet.rollouts.rollout import Rollout, find
from opq_twisted.fleet.rollouts.steps import first_step, next_step
from opq_twisted.fleet.store.schema import rollout
from opq_twisted.fleet.store.states import RolloutState
from opq_twisted.fleet.widen_hours import WidenHours

_ALWAYS = WidenHours()


def assess(
    connection: Connection,
    now: float,
    timing: Timing,
    *,
    hours: WidenHours = _ALWAYS,
    metadata_problem: str | None = None,
    previous_releases: PreviousReleases | None = None,
    only: Collection[int] | None = None,
) -> list[Assessment]:
    """
    Judge all rollouts that are not superseded.

    :param now: seconds since the epoch.
    :param metadata_problem: a sentence about the problem with the signed metadata.
    :param previous_releases: reads the previous releases; None to count them again.
    :param only: the releases to judge; None for all.
    """
    previous_releases = previous_releases or PreviousReleases(timing)
    conditions = [rollout.c.state != RolloutState.SUPERSEDED]
    if only is not None:
        conditions.append(rollout.c.release.in_(only))
    return [
        _judge(connection, each, now, timing, hours, metadata_problem, previous_releases)
        for each in find(connection, *conditions)
    ]


def _judge(
    connection: Connection,
    each: Rollout,
    now: float,
    timing: Timing,
    hours: WidenHours,
    metadata_problem: str | None,
    previous_releases: PreviousReleases,
) -> Assessment:
    hearing = read_hearing(connection, each.channel, now, timing)
    counts = counts_in(each, now, timing.key_age)
    shown = judged = read_results(connection, each, counts, hearing.silent_before)
    if each.acknowledged_at is not None:
        judged = read_results(
            connection, each, counts, hearing.silent_before, received_after=each.acknowledged_at
        )
    silence = _read_silence_check(connection, each, counts, hearing, judged)
    before = previous_releases.read(connection, each, now, hearing.silent_before)
    evidence = _gather_evidence(connection, each, counts, judged, silence, before)
    circumstances = Circumstances(
        baked=hearing.server.between(each.since, now),
        is_settled=hearing.is_settled,
        is_fleet_silent=silence.is_fleet_silent,
        metadata_problem=metadata_problem,
        is_in_hours=hours.include(now),
    )
    return Assessment(
        at=now,
        rollout=each,
        evidence=evidence,
        circumstances=circumstances,
        decision=None if each.is_held else decide(each, evidence, circumstances, timing),
        next_bp=_next_bp(connection, each),
        before=before,
        controls=silence.controls,
        results=shown,
    )


@frozen(kw_only=True)
class _SilenceCheck:
    """Decides, by the boxes that installed nothing, whether the release has silenced a box."""

    group: ControlGroup
    #: The controls now.
    controls: Controls
    is_settled: bool
    is_fleet_silent: bool

    def is_clear(self, last_seen: float) -> bool:
        """Whether the release has silenced a box that was last heard at this time."""
        then = self.group.since(last_seen)
        is_judged = self.is_settled and not self.is_fleet_silent
        return is_judged and then.can_tell and not then.explain_silence


def _read_silence_check(
    connection: Connection,
    each: Rollout,
    counts: ColumnElement[bool],
    hearing: Hearing,
    results: Iterable[Result],
) -> _SilenceCheck:
    moments = (found.last_seen for found in results if found.last_seen is not None)
    since = min(hearing.silent_before, hearing.moment, *moments)
    group = read_control_group(
        connection, each, counts, since, hearing.broken_before, hearing.timing
    )
    controls = group.since(hearing.moment)
    return _SilenceCheck(
        group=group,
        controls=controls,
        is_settled=hearing.is_settled,
        is_fleet_silent=hearing.is_fleet_silent(controls),
    )


def _gather_evidence(
    connection: Connection,
    each: Rollout,
    counts: ColumnElement[bool],
    results: Sequence[Result],
    silence: _SilenceCheck,
    before: PreviousRelease | None,
) -> Evidence:
    """:param results: the boxes by their results, without attempts that do not count any more."""
    found = sum_up(results, silence.is_clear)
    heard = (result.last_seen for result in results if result.counts)
    silent = [last for last in heard if last is not None and silence.is_clear(last)]
    too_early = 0
    if found.bad:
        last_silent = max(silent, default=0.0)
        too_early = count_too_early(connection, each, counts, last_silent, each.acknowledged_at)
    drawn, ended = count_drawn(connection, each, counts)
    return Evidence(
        well=found.well,
        bad_by_reason=found.bad_by_reason,
        under_way=found.under_way,
        unclear=found.unclear,
        too_early=too_early,
        drawn=drawn,
        ended=ended,
        test=_test(before, [silence.group.since(moment) for moment in silent]),
    )


def _test(before: PreviousRelease | None, usual: Iterable[Controls]) -> SequentialTest:
    """
    Make the test from the results of the previous release, and from the silence of the controls.

    :param usual: the controls at each moment at which a box with the release fell silent, because
        more boxes are usually silent at night than at noon. It is empty if no bad box is silent: a
        box that has reported a failure is not excused by the silence of others.
    """
    silent = max((each.share for each in usual if each.can_tell), default=0.0)
    if before is None:
        return SequentialTest.after(0, 0, silent)
    return SequentialTest.after(before.bad, before.boxes, silent)


def _next_bp(connection: Connection, each: Rollout) -> int | None:
    if each.bp >= each.ceiling_bp:
        return None
    return min(each.ceiling_bp, next_step(each.bp, first_step(connection, each.channel)))
