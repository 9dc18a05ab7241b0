"""The engine's judgement of a rollout at one moment."""

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from opq_twisted.fleet.engine.control_group import Controls
from opq_twisted.fleet.engine.decision import Circumstances, Decision
from opq_twisted.fleet.engine.evidence import Evidence
from opq_twisted.fleet.engine.sequential_test import interval
from opq_twisted.fleet.queries.outcomes import Result
from opq_twisted.fleet.rollouts.rollout import Rollout


@frozen(kw_only=True)
class PreviousRelease:
    """The results of the previous release, with which those of the new one are compared."""

    release: int
    #: How many of the boxes were bad.
    bad: int
    boxes: int


@frozen(kw_only=True)
class Assessment:
    """A rollout, the evidence about it, and the decision."""

    #: When it was judged, in seconds since the epoch.
    at: float
    rollout: Rollout
    evidence: Evidence
    circumstances: Circumstances
    #: None for a rollout that is held.
    decision: Decision | None
    #: The share after the next step, in basis points; None if it is at its ceiling.
    next_bp: int | None
    before: PreviousRelease | None
    #: The boxes of the channel that installed nothing: how many of them were heard lately.
    controls: Controls
    #: The boxes by their results, also those that do not count.
    results: Sequence[Result]

    def to_json(self) -> Mapping[str, Any]:
        """Return the content of the JSON; shares are from 0 to 1, times in seconds."""
        evidence, decision, before = self.evidence, self.decision, self.before
        low, high = interval(evidence.bad, evidence.boxes) if evidence.boxes else (0.0, 1.0)
        return {
            "at": self.at,
            "well": evidence.well,
            "bad": evidence.bad,
            "bad_by_reason": dict(evidence.bad_by_reason),
            "under_way": evidence.under_way,
            "unclear": evidence.unclear,
            "boxes": evidence.boxes,
            "low": low,
            "high": high,
            "holds_at": evidence.test.holds_at(evidence.tested),
            "accepted": evidence.test.accepted,
            "rejected": evidence.test.rejected,
            "drawn": evidence.drawn,
            "ended": evidence.ended,
            "before": None
            if before is None
            else {"release": before.release, "bad": before.bad, "boxes": before.boxes},
            "action": None if decision is None else decision.action.value,
            "sentence": None if decision is None else decision.sentence,
            "remaining": None if decision is None else decision.remaining,
            "next_bp": self.next_bp,
        }
