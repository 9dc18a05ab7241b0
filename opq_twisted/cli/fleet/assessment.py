"""Describes the server's judgement of a rollout."""

import textwrap
from collections.abc import Iterator

from opq_twisted.cli.fleet.formats import boxes, count, percent
from opq_twisted.cli.untrusted_json import Document
from opq_twisted.common import wording

#: The width of a sentence beside the name of its row.
_WIDTH = 67

#: The modes of the engine, after "Rollouts".
MODES = {
    "off": "off: the server does not judge them",
    "observe": "observe: the server judges them, and only says what it would do",
    "ask": "ask: the server holds bad ones, and asks you to widen the others",
    "auto": "auto: the server holds bad ones, and widens the others",
}


def reason_lines(rollout: Document) -> Iterator[str]:
    """Give the reason for the state of a rollout."""
    if sentence := rollout.text("sentence"):
        yield from _wrapped(f"Why: {sentence}")


def assessment_lines(rollout: Document) -> Iterator[str]:
    """Describe the boxes that count and the next step; without a judgement, yield nothing."""
    found = rollout.part("assessment")
    if not found.content:
        return
    yield from _next_lines(found)
    number, bad = found.integer("boxes") or 0, found.integer("bad") or 0
    if number:
        yield (
            f"{count(bad, 'bad box', 'bad boxes')} of {number:,} that count: "
            f"{_share(bad, number)} [{_bounds(found)}]"
        )
        place = wording.ordinal(found.integer("holds_at") or 0)
        yield f"it holds at the {place} bad box of {number:,}"
    before = found.part("before")
    if tried := before.integer("boxes"):
        yield (
            f"the previous release, {before.integer('release')}: "
            f"{_share(before.integer('bad') or 0, tried)} of {boxes(tried)} bad"
        )
    if other := rollout.integer("not_judged"):
        yield from _wrapped(_not_judged(rollout, other))
    if sentence := found.text("sentence"):
        yield from _wrapped(f"The engine says: {sentence}")


def _next_lines(found: Document) -> Iterator[str]:
    next_bp, remaining = found.integer("next_bp"), found.number("remaining")
    action = found.text("action")
    if next_bp is None:
        return
    if action == "wait" and remaining is not None:
        yield f"next {percent(next_bp)} in {wording.about(remaining)}, unless there is a problem"
    elif action == "widen":
        yield f"next {percent(next_bp)}: nothing prevents it"


def _not_judged(rollout: Document, number: int) -> str:
    verb = "does" if number == 1 else "do"
    resumed = rollout.number("acknowledged_at") is not None
    more = ", or it was tried before the release was resumed" if resumed else ""
    return (
        f"{boxes(number)} of those below {verb} not count: the key was less than a day old when "
        f"the release was announced{more}."
    )


def _share(bad: int, number: int) -> str:
    return f"{100 * bad / number:.1f} %"


def _bounds(found: Document) -> str:
    low, high = found.number("low") or 0.0, found.number("high") or 0.0
    return f"{100 * low:.1f}\N{EN DASH}{100 * high:.1f}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, break_on_hyphens=False)
