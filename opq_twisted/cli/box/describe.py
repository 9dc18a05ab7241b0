"""Describes the state, the attempts and the reports of a box for people."""

from opq_twisted.box.state.stages import Stage
from opq_twisted.cli.box.progress import is_at_rest
from opq_twisted.cli.untrusted_json import Document
from opq_twisted.common import wording


def status(found: Document) -> list[tuple[str, str]]:
    """Return the rows of a status: the name and the text of each, which may be empty."""
    last = found.part("last_attempt")
    message, stage = found.text("message"), found.text("stage")
    available = found.integer("available")
    is_of_attempt = message == last.text("reason")
    is_blocked = message.startswith(f"Release {available} is blocked: ")
    # Then other rows contain the same text.
    is_said = is_of_attempt or message == f"Release {available} is available."
    if is_blocked and message.removeprefix(f"Release {available} is blocked: ") in last.text(
        "reason"
    ):
        message = f"Release {available} is blocked."
    if stage == Stage.FAILED and not is_of_attempt:
        # A check has found something since.
        stage = Stage.IDLE
    rows = [
        ("Box", _box(found)),
        ("Installed", wording.version(found.integer("installed"))),
        ("Available", wording.version(available)),
        ("Stage", stage + _progress(found.part("progress"))),
        ("", "" if is_said else message),
        ("Last check", wording.moment(found.number("last_check"), "not since the agent started")),
        ("Next check", wording.moment(found.number("next_check"))),
    ]
    if found.flag("update_available") and is_at_rest(found) and not found.text("trouble"):
        verb = "tries it again" if is_blocked else "installs it"
        rows[3:3] = [("What is new", found.lines("notes")), ("", f"opq-box update {verb}.")]
    if found.flag("unsigned"):
        rows.append(("Unsigned", "This box installs releases without checking who made them."))
    if last.content:
        rows.append(("Last update", attempt(last)))
    if fingerprint := found.text("fingerprint"):
        last_report = report(found.number("last_report"), found.text("report_answer"))
        rows += [("Fingerprint", fingerprint), ("Last report", last_report)]
    return rows


def report(sent: float | None, answer: str) -> str:
    """Describe when the last report was sent, and its answer."""
    return f"{wording.moment(sent, 'none since the agent started')}  {answer}".rstrip()


def _box(found: Document) -> str:
    """Return the name and the id of the box; empty for an agent that does not say them."""
    name, box_id = found.text("name"), found.integer("box_id")
    if box_id is None:
        return name
    return f"{name} (id {box_id})" if box_id else f"{name} (no box_id in its configuration)"


def _progress(progress: Document) -> str:
    received, total = progress.number("received"), progress.number("total")
    if received is None:
        return ""
    rate, here = progress.number("rate") or 0, progress.number("here") or 0
    return f", {wording.download_progress(received, total, rate, here)}"


def attempt(found: Document) -> str:
    """Describe an attempt to update: when it ended, how, how long it took, and why it failed."""
    version, ended = found.integer("version"), found.number("ended")
    of_release = "" if version is None else f", release {wording.version(version)}"
    took = ""
    if ended is not None:
        took = f" in {wording.duration(ended - (found.number('started') or ended))}"
    outcome, reason = found.text("outcome"), found.text("reason")
    if reason == f"The box runs release {version}.":
        reason = ""
    fetched = _fetched(found)
    return f"{wording.moment(ended)}  {outcome}{took}{of_release}.{fetched} {reason}".rstrip()


def _fetched(attempt: Document) -> str:
    fetched, size = attempt.integer("fetched"), attempt.integer("size")
    if fetched is None:
        return ""
    rest = "" if size is None or fetched >= size else "; the rest was here already"
    return f" Fetched {wording.part_of(fetched, size)}{rest}."
