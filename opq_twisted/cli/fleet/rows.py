"""Makes the lines and the cells of tables for `opq-fleet`."""

from collections.abc import Iterator

from opq_twisted.cli.fleet.assessment import MODES, assessment_lines, reason_lines
from opq_twisted.cli.fleet.formats import (
    boxes,
    fingerprint,
    name,
    outcome,
    pace,
    percent,
    seen,
)
from opq_twisted.cli.untrusted_json import Document
from opq_twisted.common import wording
from opq_twisted.fleet.needs import NEEDS


def rollout_lines(rollout: Document) -> Iterator[str]:
    """Describe a rollout, and the results of the boxes."""
    yield f"release {wording.version(rollout.integer('release'))}"
    yield pace(rollout)
    yield f"since {wording.moment(rollout.number('since'))}"
    yield from reason_lines(rollout)
    yield from assessment_lines(rollout)
    outcomes = rollout.parts("outcomes")
    total = sum(each.integer("boxes") or 0 for each in outcomes)
    if not total:
        yield "no box has reported an attempt to install it yet"
        return
    bad = sum(each.integer("boxes") or 0 for each in outcomes if each.flag("bad"))
    yield f"{boxes(total)} tried it, {bad:,} of them badly ({percent(bad * 10_000 // total)})"
    for each in outcomes:
        mark = ", counts as bad" if each.flag("bad") else ""
        yield f"  {each.integer('boxes') or 0:>9,}  {outcome(each)}{mark}"


def mode_lines(found: Document) -> Iterator[str]:
    """Describe the mode of the engine."""
    mode = found.text("rollouts")
    if mode in MODES:
        yield MODES[mode]


def no_channel_lines(found: Document, sentence: str) -> Iterator[str]:
    """Say that there is no rollout to show, and give the reason."""
    if not any(found.parts("channels")):
        yield sentence


def fleet_lines(found: Document) -> Iterator[str]:
    """Describe the releases that boxes run, and their reasons to wait."""
    yield (
        f"{boxes(found.integer('boxes'))}; {found.integer('waiting_now') or 0:,} wait at this "
        "server now"
    )
    for each in found.parts("releases"):
        yield f"  {each.integer('boxes') or 0:>9,}  run {wording.version(each.integer('release'))}"
    for key, words in (("others", "run other releases"), ("unknown", "run an unknown release")):
        if number := found.integer(key):
            yield f"  {number:>9,}  {words}"
    waiting = found.part("waiting")
    for key in waiting.content:
        yield f"  {waiting.integer(key) or 0:>9,}  wait for: {Document({'key': key}).text('key')}"


def need_lines(needs: Document) -> Iterator[str]:
    """Describe the boxes that need attention."""
    for key, words in NEEDS.items():
        need = needs.part(key)
        if number := need.integer("boxes"):
            some = need.content.get("some")
            listed = Document(
                {"some": [{"box_id": each} for each in some]} if isinstance(some, list) else {}
            )
            names = ", ".join(name(each) for each in listed.parts("some"))
            more = ", …" if number > len(listed.parts("some")) else ""
            yield f"{boxes(number)} {words}: {names}{more}"


def change_line(change: Document) -> str:
    """Describe a change in two lines: the author and the command, the change and its reason."""
    return (
        f"{wording.moment(change.number('at'))}  {change.text('who')}  {change.text('what')}"
        f"{_object(change)}\n  {change.text('change')} Because: {change.text('because')}"
    )


def bad_line(attempt: Document) -> str:
    """Describe a bad attempt."""
    key = fingerprint(attempt.text("key_id"))
    return f"box {name(attempt)} ({key}): {outcome(attempt)}"


def box_row(box: Document, now: float | None) -> list[str]:
    """Return the cells of a box in a list."""
    return [
        name(box),
        fingerprint(box.text("key_id")),
        str(box.integer("release") or "-"),
        box.text("state"),
        box.text("waiting") or "-",
        seen(now, box.number("last_seen")),
    ]


def rollout_row(rollout: Document) -> list[str]:
    """Return the cells of a rollout in a list."""
    return [
        rollout.text("channel"),
        str(rollout.integer("release")),
        rollout.text("state"),
        percent(rollout.integer("bp")),
        percent(rollout.integer("ceiling_bp")),
        wording.moment(rollout.number("announced_at")),
    ]


def attempt_row(attempt: Document, now: float | None) -> list[str]:
    """Return the cells of an attempt in a list."""
    took = wording.duration(attempt.number("took") or 0)
    return [
        seen(now, attempt.number("received")),
        str(attempt.integer("from_release") or "-"),
        str(attempt.integer("release") or "-"),
        outcome(attempt) or f"under way ({attempt.text('stage')})",
        "inferred" if attempt.flag("inferred") else took,
    ]


def key_rows(key: Document, now: float | None) -> Iterator[tuple[str, str]]:
    """Return the names and values of the rows about a key."""
    yield "Box", name(key) if key.integer("box_id") else "no number in its configuration"
    yield "Key", key.text("key_id")
    yield "Label", key.text("label")
    yield "State", key.text("state")
    yield "Replaced by", key.text("replaced_by")
    yield "Channel", key.text("channel")
    yield "Release", _release(key, "release")
    yield "Last good", _release(key, "last_good")
    yield "Blocked", _releases(key, "refused")
    yield "Waits for", key.text("waiting")
    yield "Installs", key.text("install")
    yield "Agent", " on ".join(filter(None, (key.text("agent"), key.text("arch"))))
    yield "First seen", wording.moment(key.number("first_seen"), "")
    yield "Last seen", seen(now, key.number("last_seen"))
    if key.number("cloned_at") is not None:
        yield "Cloned", f"two boxes used this key {wording.moment(key.number('cloned_at'))}"


def _releases(key: Document, field: str) -> str:
    found = key.content.get(field)
    return (
        ", ".join(str(each) for each in found if type(each) is int)
        if isinstance(found, list)
        else ""
    )


def _release(key: Document, field: str) -> str:
    version = key.integer(field)
    return "" if version is None else wording.version(version)


def _object(change: Document) -> str:
    if release := change.integer("release"):
        channel = change.text("channel")
        return f" {release}" + (f" in {channel}" if channel else "")
    key = change.text("key_id")
    return f" {fingerprint(key)}" if key else ""
