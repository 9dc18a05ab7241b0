"""Follows the attempts of one box from report to report."""

from collections.abc import Mapping

from attrs import evolve

from opq_twisted.fleet.reports.rows import StoredAttempt
from opq_twisted.report.codes import Outcome
from opq_twisted.report.document import AttemptReport, Report

#: The limit of new attempts of a box in a day; a box keeps 20. It must send the others later.
MAX_IN_DAY = 100


def follow(
    known: Mapping[str, StoredAttempt], box: int, report: Report, received: float, room: int
) -> dict[str, StoredAttempt]:
    """
    Return the attempts of a box that a report changes or adds, by id.

    A reported outcome is never changed.

    A box reports an attempt until the server has acknowledged its outcome. If an attempt without an
    outcome is missing in a report, the box has lost it, for example with its card. The outcome is
    then inferred from the release that the box ran next: the `from` of the first attempt that is
    new in the report, or otherwise the `release` of the report. While another attempt is under way,
    that is unknown. If the box reports the attempt later, the report replaces the inferred outcome.

    | it ran next                       | the inferred outcome |
    | --------------------------------- | -------------------- |
    | the `from` of the lost attempt    | `returned`           |
    | the `release` of the lost attempt | `updated`            |
    | both, neither, or unknown         | none                 |

    :param known: the stored attempts of the box that have no outcome, or are named in the report.
    :param box: the number of its row.
    :param received: in seconds since the epoch.
    :param room: the number of attempts that may be added; the others are left out.
    """
    merged = _merge(known, box, report, received, room)
    reported = {each.id for each in report.attempts}
    new = [each for each in report.attempts if each.id not in known]
    inferred = {
        each.attempt_id: evolve(each, outcome=outcome, inferred=True, ended_at=received)
        for each in known.values()
        if each.outcome is None
        and each.attempt_id not in reported
        and (outcome := _infer(each, _ran_next(report, new)))
    }
    return merged | inferred


def contradicts(known: Mapping[str, StoredAttempt], report: Report) -> bool:
    """Whether a report has another outcome for an attempt than the box has reported before."""
    return any(
        each.outcome and stored.outcome not in (None, each.outcome) and not stored.inferred
        for each in report.attempts
        if (stored := known.get(each.id))
    )


def done(known: Mapping[str, StoredAttempt], report: Report) -> list[str]:
    """
    Return the ids of the attempts that the box need not report again.

    The report must contain their outcome. If the server has inferred an outcome, and the attempt is
    still under way in the report, the box must report it again.
    """
    return [
        each.id
        for each in report.attempts
        if each.outcome and (stored := known.get(each.id)) and stored.outcome
    ]


def _merge(
    known: Mapping[str, StoredAttempt], box: int, report: Report, received: float, room: int
) -> dict[str, StoredAttempt]:
    changed: dict[str, StoredAttempt] = {}
    for each in report.attempts:
        stored = changed.get(each.id) or known.get(each.id)
        if stored is None:
            if room > 0:
                changed[each.id] = _first(each, box, received)
                room -= 1
        elif (after := _next(stored, each, received)) != stored:
            changed[each.id] = after
    return changed


def _first(reported: AttemptReport, box: int, received: float) -> StoredAttempt:
    return StoredAttempt(
        box=box,
        attempt_id=reported.id,
        release=reported.release,
        from_release=reported.previous,
        began=reported.began,
        took=reported.took,
        automatic=reported.automatic,
        stage=reported.stage,
        outcome=reported.outcome,
        reason=reported.reason,
        tries=reported.tries,
        fetched=reported.fetched,
        size=reported.size,
        received=received,
        ended_at=received if reported.outcome else None,
    )


def _next(stored: StoredAttempt, reported: AttemptReport, received: float) -> StoredAttempt:
    """Return an attempt after a further report of it."""
    if stored.outcome and not stored.inferred:
        return stored
    ended_at = (stored.ended_at or received) if reported.outcome else None
    return evolve(_first(reported, stored.box, stored.received), ended_at=ended_at)


def _ran_next(report: Report, new: list[AttemptReport]) -> int | None:
    if new:
        return new[0].previous
    under_way = any(each.outcome is None for each in report.attempts)
    return None if under_way else report.release


def _infer(lost: StoredAttempt, ran_next: int | None) -> Outcome | None:
    if ran_next is None or lost.from_release == lost.release:
        return None
    if ran_next == lost.from_release:
        return Outcome.RETURNED
    return Outcome.UPDATED if ran_next == lost.release else None
