"""Decides about a rollout: hold it, widen it, ask a person, or wait."""

from enum import Enum

from attrs import frozen

from opq_twisted.common import wording
from opq_twisted.common.wording import percent
from opq_twisted.fleet.engine.evidence import Evidence
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.rollouts.rollout import Rollout

#: A step ends when this share of its boxes has ended the attempt.
_ENDED = 0.8

#: After this multiple of its usual time, a step ends anyway.
_MOST_STEP_TIMES = 3


class Action(Enum):
    """What to do with a rollout."""

    HOLD = "hold"
    WIDEN = "widen"
    #: A person has to decide.
    ASK = "ask"
    #: Nothing now.
    WAIT = "wait"
    #: Nothing now or later: the rollout is complete.
    NOTHING = "nothing"


@frozen(kw_only=True)
class Circumstances:
    """Facts for a decision that are not about the boxes of the rollout."""

    #: Seconds since the last change of the share, without the outages of the server.
    baked: float
    #: Whether the last outage was so long ago that a silent box can be judged.
    is_settled: bool = True
    #: Whether too many of the boxes that install nothing are silent.
    is_fleet_silent: bool = False
    #: A sentence about the problem with the signed metadata; None if there is no problem.
    metadata_problem: str | None = None
    #: Whether rollouts are widened at this time of the week.
    is_in_hours: bool = True

    @property
    def can_hear(self) -> bool:
        """Whether a healthy box would be heard now."""
        return self.is_settled and not self.is_fleet_silent


@frozen
class Decision:
    """An action, and the reason for it."""

    action: Action
    #: The reason, with the numbers.
    sentence: str
    #: Seconds until the step is over if no problem delays it; None if it is over, or the last one.
    remaining: float | None = None


def decide(
    rollout: Rollout, evidence: Evidence, circumstances: Circumstances, timing: Timing
) -> Decision:
    """Decide about a rollout that is neither held nor superseded."""
    if evidence.is_held:
        return Decision(Action.HOLD, f"{describe(evidence)} {_limit(evidence)}")
    if rollout.bp >= rollout.ceiling_bp:
        # The rollout is complete, or a smaller share was signed meanwhile.
        if circumstances.can_hear and evidence.is_perhaps_held:
            return Decision(Action.ASK, f"{describe(evidence)} {_doubt(evidence)}")
        return Decision(Action.NOTHING, describe(evidence))
    remaining = timing.step - circumstances.baked
    if remaining > 0:
        return Decision(Action.WAIT, f"{describe(evidence)} The step is not over.", remaining)
    if reason := _reason_to_wait(evidence, circumstances, timing):
        return Decision(Action.WAIT, f"{describe(evidence)} {reason}")
    if evidence.is_inconclusive:
        return Decision(Action.ASK, f"{describe(evidence)} {_doubt(evidence)}")
    return Decision(Action.WIDEN, describe(evidence))


def describe(evidence: Evidence) -> str:
    """Return a sentence with the numbers of boxes."""
    if not evidence.boxes:
        return "No box that counts has begun to install it."
    verb = "is" if evidence.bad == 1 or evidence.boxes == 1 else "are"
    text = f"{evidence.bad:,} of {wording.boxes(evidence.boxes)} {verb} bad"
    if evidence.bad_by_reason:
        reasons = sorted(evidence.bad_by_reason.items(), key=lambda each: (-each[1], each[0]))
        text += f" ({', '.join(f'{reason} {boxes:,}' for reason, boxes in reasons)})"
    text += f", {evidence.well:,} well, {evidence.under_way:,} under way."
    if evidence.unclear:
        verb = "is" if evidence.unclear == 1 else "are"
        text += (
            f" {evidence.unclear:,} of those under way {verb} silent, and nobody can tell whether "
            "that is the release or the network."
        )
    return text


def _reason_to_wait(evidence: Evidence, circumstances: Circumstances, timing: Timing) -> str | None:
    if circumstances.is_fleet_silent:
        return "Many boxes that installed nothing are silent: the rollout waits for the network."
    if not circumstances.is_settled:
        return "The rollout waits until the boxes have reported after the outage."
    if circumstances.metadata_problem is not None:
        return f"The rollout waits for the signed metadata: {circumstances.metadata_problem}"
    if not circumstances.is_in_hours:
        return "The rollout waits for the hours of --widen-hours."
    is_late = circumstances.baked >= _MOST_STEP_TIMES * timing.step
    is_urgent = is_late or evidence.is_perhaps_held
    if evidence.ended < _ENDED * evidence.drawn and not is_urgent:
        return (
            "The rollout waits for more of the boxes whose turn it is: "
            f"{evidence.ended:,} of {evidence.drawn:,} have ended their attempt."
        )
    return None


def _limit(evidence: Evidence) -> str:
    at, test = evidence.test.holds_at(evidence.tested), evidence.test
    return (
        f"After {evidence.tested:,} boxes {at} bad ones are too many, if "
        f"{percent(round(test.accepted * 10_000))} are normal."
    )


def _doubt(evidence: Evidence) -> str:
    if evidence.is_perhaps_held:
        return "If the release is the cause, they are too many: somebody has to look at them."
    if not evidence.well:
        return "No box has confirmed it: somebody has to decide."
    if evidence.unclear:
        return (
            "If the silent boxes are bad, too many boxes are bad to widen the rollout, but not "
            "enough for a hold: somebody has to decide."
        )
    middle = percent(round(evidence.test.middle * 10_000))
    return f"That is {middle} or more, but not enough for a hold: somebody has to decide."
