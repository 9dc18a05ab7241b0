"""Describes the state of a rollout for people, and the next step."""

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from opq_twisted.fleet.rollouts.steps import STEPS
from opq_twisted.fleet.web.views import formats

#: The JSON of a rollout, or a part of it.
_Content = Mapping[str, Any]

_OFF = (
    "The server does not judge this rollout: it goes to all boxes for which it was signed. To let "
    "the server judge it, start the server with --rollouts observe."
)
_HELD = (
    "No box installs it by itself. Look at the bad boxes; then resume it, or publish a better "
    "release."
)


@frozen(kw_only=True)
class Banner:
    """The rollout of a release in a channel, for people."""

    #: One of `busy`, `good`, `bad` and `warn`.
    tone: str
    #: The state in a word or two.
    state: str
    #: The next step, or the task for a person.
    next: str
    #: The sentence of the engine; empty if it adds nothing to the numbers.
    sentence: str
    well: int
    bad: int
    under_way: int
    #: Bad boxes by the reason, the most frequent first.
    reasons: Sequence[tuple[str, int]]
    #: Failures that are not the fault of the release.
    excused: Sequence[tuple[str, int]]
    #: The shares of its steps, in basis points.
    steps: Sequence[int]
    #: The larger shares to which an operator may widen it.
    wider: Sequence[int]
    #: The shares at which an operator may resume it.
    resumable: Sequence[int]

    @property
    def boxes(self) -> int:
        """The boxes that began to install it."""
        return self.well + self.bad + self.under_way

    @classmethod
    def of(cls, channel: _Content, mode: str) -> "Banner":
        """
        Describe a channel of the overview.

        :param mode: the value of `--rollouts`.
        """
        assessment, state = channel["assessment"], channel["state"]
        bp, ceiling = channel["bp"], channel["ceiling_bp"]
        numbers = _count(channel) if assessment is None else _judged(assessment)
        tone, label, then = _describe(channel, mode)
        shares = sorted({*(each for each in STEPS if each < ceiling), bp, ceiling} - {0})
        return cls(
            tone=tone,
            state=label,
            next=then,
            sentence=_sentence(assessment),
            excused=_excused(channel),
            # A small fleet begins with more than the smallest step.
            steps=[each for each in shares if each >= min(bp, channel["first_bp"])],
            wider=[each for each in shares if each > bp],
            resumable=[each for each in reversed(shares) if each <= bp] if state == "held" else [],
            **numbers,
        )


def _sentence(assessment: _Content | None) -> str:
    """Return the sentence of the engine, unless it only repeats the numbers of the page."""
    if assessment is None or assessment["action"] == "nothing":
        return ""
    # Until the step is over, the sentence of the engine has only the numbers.
    if assessment["remaining"] is not None:
        return ""
    return assessment["sentence"] or ""


def _judged(assessment: _Content) -> dict[str, Any]:
    return {
        "well": assessment["well"],
        "bad": assessment["bad"],
        "under_way": assessment["under_way"],
        "reasons": _sorted(assessment["bad_by_reason"]),
    }


def _count(channel: _Content) -> dict[str, Any]:
    """Count the outcomes for a rollout that the engine does not judge."""
    bad: dict[str, int] = {}
    by_outcome: dict[str, int] = {}
    for each in channel["outcomes"]:
        by_outcome[each["outcome"]] = by_outcome.get(each["outcome"], 0) + each["boxes"]
        if each["bad"]:
            reason = each["reason"] or each["outcome"]
            bad[reason] = bad.get(reason, 0) + each["boxes"]
    return {
        "well": by_outcome.get("updated", 0),
        "bad": sum(bad.values()),
        "under_way": by_outcome.get("under way", 0),
        "reasons": _sorted(bad),
    }


def _excused(channel: _Content) -> Sequence[tuple[str, int]]:
    return _sorted(
        {
            each["reason"] or each["outcome"]: each["boxes"]
            for each in channel["outcomes"]
            if each["outcome"] == "failed" and not each["bad"]
        }
    )


def _sorted(numbers: Mapping[str, int]) -> Sequence[tuple[str, int]]:
    found = [(name, number) for name, number in numbers.items() if number]
    return sorted(found, key=lambda each: (-each[1], each[0]))


def _describe(channel: _Content, mode: str) -> tuple[str, str, str]:
    """Return the tone, the state, and what comes next."""
    state, share = channel["state"], formats.percent(channel["bp"])
    if state == "held":
        return "bad", "Held", _HELD
    if state == "superseded":
        return "good", "Superseded", "The channel names another release. Nothing is to be done."
    if state == "done" or channel["bp"] >= channel["ceiling_bp"]:
        return _describe_done(channel, mode)
    if channel["assessment"] is None:
        return "busy", f"At {share}", _OFF
    if channel["silent_since"] is not None:
        return (
            "warn",
            f"Frozen at {share}",
            "Many boxes that installed nothing are silent: check the network and this server. The "
            "rollout waits for them.",
        )
    return _describe_step(channel, mode, f"Baking at {share}")


def _describe_done(channel: _Content, mode: str) -> tuple[str, str, str]:
    share = formats.percent(channel["ceiling_bp"])
    then = (
        "All boxes of the channel may install it. Nothing is to be done."
        if channel["ceiling_bp"] == STEPS[-1]
        else f"The release key allows {share} of the boxes. For more, sign a larger share with: "
        "opq-release publish --rollout."
    )
    if channel["assessment"] is None:
        then += f" {_OFF}"
    elif channel["assessment"]["action"] == "hold":
        return "bad", f"Done at {share}", _would_hold(mode)
    elif channel["assessment"]["action"] == "ask":
        return "warn", f"Done at {share}: asks", "Somebody has to decide: hold it, or leave it."
    elif mode == "observe":
        then += " The server only observes: it changes nothing by itself."
    return "good", f"Done at {share}", then


def _describe_step(channel: _Content, mode: str, state: str) -> tuple[str, str, str]:
    assessment = channel["assessment"]
    action, remaining = assessment["action"], assessment["remaining"]
    following = formats.percent(assessment["next_bp"] or channel["ceiling_bp"])
    if action == "hold":
        return "bad", state, _would_hold(mode)
    if action == "ask":
        return "warn", f"{state}: asks", "Somebody has to decide: widen it, or hold it."
    if action == "widen" and mode in ("ask", "observe"):
        return (
            "warn",
            f"{state}: ready",
            f"The step to {following} is ready: widen it, if you agree.",
        )
    if mode == "observe":
        return "busy", state, "The server only observes: it changes nothing by itself."
    if remaining is not None:
        then = "unless there is a problem" if mode == "auto" else "if somebody agrees"
        return "busy", state, f"Next {following} in {formats.span(remaining)}, {then}."
    return "busy", state, f"Next {following} as soon as nothing prevents it."


def _would_hold(mode: str) -> str:
    would = "would hold it now" if mode == "observe" else "is about to hold it"
    return f"The engine {would}. Hold it, if you agree."
