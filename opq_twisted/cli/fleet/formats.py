"""Formats the values of boxes, rollouts and attempts."""

import re

from opq_twisted.cli.untrusted_json import Document
from opq_twisted.common import wording

#: `opq-fleet` shows and accepts the first 12 digits of a fingerprint. If they look like the number
#: of a box, because none is a letter, it shows more.
_SHORT = re.compile(r"[0-9]{12,}.|.{0,12}")


def percent(bp: int | None) -> str:
    """Format hundredths of a percent: `5 %`, `0.25 %`."""
    return "unknown" if bp is None else wording.percent(bp)


def count(number: int | None, one: str, many: str = "") -> str:
    """Format a number of things; None counts as 0."""
    return wording.count(number or 0, one, many)


def boxes(number: int | None) -> str:
    """Format a number of boxes; None counts as 0."""
    return wording.boxes(number or 0)


def name(box: Document) -> str:
    """Name a box by its number."""
    box_id = box.integer("box_id")
    return str(box_id) if box_id else "-"


def fingerprint(key_id: str) -> str:
    """Shorten a fingerprint to a part that `opq-fleet` still accepts."""
    found = _SHORT.match(key_id)
    return key_id if found is None else found[0]


def seen(now: float | None, last_seen: float | None) -> str:
    """Format the time since a report."""
    return "never" if last_seen is None else wording.age((now or 0) - last_seen)


def pace(rollout: Document) -> str:
    """Describe the state and the share of a rollout."""
    state, bp = rollout.text("state"), percent(rollout.integer("bp"))
    ceiling = rollout.integer("ceiling_bp")
    described = {
        "held": f"held (at {bp} before)",
        "done": f"for all boxes that the release key allows ({percent(ceiling)})",
        "superseded": "superseded",
    }.get(state, f"{state} at {bp} of {percent(ceiling)} that the release key allows")
    return f"{described}, critical" if rollout.flag("critical") else described


def outcome(found: Document) -> str:
    """Describe a result: `returned (unhealthy-service)`."""
    reason = found.text("reason")
    return found.text("outcome") + (f" ({reason})" if reason else "")
