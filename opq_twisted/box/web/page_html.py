"""Renders the box's page as HTML."""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from html import escape
from string import Template

from attrs import fields

from opq_twisted.box.report.record import ReportRecord
from opq_twisted.box.state.records import Attempt
from opq_twisted.box.state.stages import STEPS
from opq_twisted.box.state.status import Status
from opq_twisted.box.web.branding import Branding
from opq_twisted.box.web.view_model import View, describe_left, view
from opq_twisted.common import wording

#: Reloads the page while an update runs, for browsers without JavaScript.
_AUTO_REFRESH = '<noscript><meta http-equiv="refresh" content="5"></noscript>'

#: Attempts that the page shows at once; the others unfold.
_RECENT = 3

#: A release in a sentence.
_RELEASE = re.compile(r"\b([Rr])elease (\d{9,12})\b")

#: The heading of an attempt, before its release and without one.
_OUTCOMES = {
    "updated": ("Updated", "to the release of", ""),
    "returned": ("Went back", "from the release of", ""),
    "failed": ("Failed", "to install the release of", "to update"),
}


def render(
    template: Template,
    branding: Branding,
    status: Status,
    attempts: Sequence[Attempt],
    reports: ReportRecord,
    now: float,
) -> str:
    """Render the page; `now` is in seconds since the epoch, `attempts` has the oldest first."""
    shown = view(status, now)
    busy = not shown.at_rest
    has_times = status.last_check is not None or status.next_check is not None
    left = describe_left(shown.left)
    reported = attempts[-1:] if shown.reports_last else ()
    items = [_attempt(each, now, is_in_headline=each in reported) for each in reversed(attempts)]
    return template.substitute(
        **_texts(shown),
        **_reports(reports, now),
        title=escape(branding.title),
        logo=branding.logo_name,
        name=escape(status.name),
        box_id=status.box_id,
        box=escape(f"{status.name} {status.box_id or ''}".strip()),
        box_id_hidden=_hidden(not status.box_id),
        no_box_id_hidden=_hidden(bool(status.box_id)),
        message_html=_with_times(shown.message),
        installed=_release(status.installed),
        available=shown.newest or _release(status.available),
        update_hidden=_hidden(shown.action != "update"),
        check_hidden=_hidden(shown.action != "check"),
        checks_hidden=_hidden(busy or (shown.action == "check" and not has_times)),
        again_hidden=_hidden(shown.action == "check"),
        last_check_hidden=_hidden(status.last_check is None),
        last_check=_time(status.last_check, now),
        next_check=_time(status.next_check, now),
        next_check_hidden=_hidden(status.next_check is None),
        notes=escape(status.notes or ""),
        notes_hidden=_hidden(not (status.notes and status.update_available)),
        stages=_stages(shown.step),
        stages_hidden=_hidden(shown.step is None),
        bar_hidden=_hidden(shown.done is None),
        done=f"{shown.done or 0:.4f}",
        left=left,
        left_hidden=_hidden(not left),
        recent="".join(items[:_RECENT]),
        earlier="".join(items[_RECENT:]),
        earlier_hidden=_hidden(len(items) <= _RECENT),
        past=past_key(status, shown),
        past_hidden=_hidden(not items),
        auto_refresh=_AUTO_REFRESH if busy else "",
        unsigned_hidden=_hidden(not status.unsigned),
        log_open="open" if shown.installs else "",
    )


def past_key(status: Status, shown: View) -> str:
    """Identify the list of attempts: the page gets it again when this changes."""
    ended = status.last_attempt.ended if status.last_attempt else 0
    return f"{ended}{' told' if shown.reports_last else ''}"


def older_texts(status: Status) -> dict[str, str]:
    """Return the texts that the script of an older release shows until it loads this page."""
    releases = {"installed": status.installed, "available": status.available}
    texts = {name: re.sub("<[^>]*>", "", _release(each)) for name, each in releases.items()}
    return {**texts, "checked": "", "outcome": ""}


def _hidden(condition: bool) -> str:
    return "hidden" if condition else ""


def _texts(shown: View) -> dict[str, str]:
    """Return each text, and a `hidden` attribute for each empty one."""
    texts = {field.name: getattr(shown, field.name) for field in fields(View)}
    texts = {name: text for name, text in texts.items() if isinstance(text, str)}
    return {
        **{name: escape(text) for name, text in texts.items()},
        **{f"{name}_hidden": _hidden(not text) for name, text in texts.items()},
    }


def _reports(record: ReportRecord, now: float) -> dict[str, str]:
    """Return the texts about the box's reports."""
    last = record.last
    return {
        "reports_hidden": _hidden(record.fingerprint is None),
        "no_reports_hidden": _hidden(record.fingerprint is not None),
        "fingerprint": escape(record.fingerprint or ""),
        "last_report": "none since the agent started" if last is None else _time(last.sent, now),
        "report_sent": "0" if last is None else str(last.sent),
        "report_answer": "" if last is None else escape(last.answer),
        "report": "" if last is None else escape(last.indented),
        "report_hidden": _hidden(last is None),
    }


def _stages(step: int | None) -> str:
    items = []
    for number, name in enumerate(STEPS):
        mark = ""
        if step is not None and number <= step:
            mark = ' aria-current="step"' if number == step else ' class="past"'
        items.append(f"<li{mark}><span>{name}</span></li>")
    return "".join(items)


def _attempt(attempt: Attempt, now: float, *, is_in_headline: bool) -> str:
    heading, before, without = _OUTCOMES.get(attempt.outcome, (attempt.outcome, "release of", ""))
    release = f"{before} {_release(attempt.version)}" if attempt.version else without
    is_plain = attempt.reason == f"The box runs release {attempt.version}."
    reason = "" if is_in_headline or is_plain else f"<p>{_with_times(attempt.reason)}</p>"
    took = f"took {wording.about(attempt.ended - attempt.started)}"
    if attempt.fetched is not None:
        took += f", fetched {wording.part_of(attempt.fetched, attempt.size)}"
    return (
        f'<li data-outcome="{escape(attempt.outcome)}"><strong>{escape(heading)}</strong> {release}'
        f"<small>{_time(attempt.ended, now)}, {took}</small>{reason}</li>"
    )


def _with_times(text: str) -> str:
    """Escape a text, and show each release in it as the time at which it was built."""

    def replace(found: re.Match[str]) -> str:
        article = "The" if found[1] == "R" else "the"
        return f"{article} release of {_release(int(found[2]))}"

    return _RELEASE.sub(replace, escape(text))


def _release(version: int | None) -> str:
    # A version is the time at which the release was built.
    if version is None:
        return "unknown"
    return _element(version, _date, f' title="Release {version}"')


def _time(seconds: float | None, now: float) -> str:
    """Show a time, as one of today if it is."""
    if seconds is None:
        return ""
    today = int(now // 86400) == int(seconds // 86400)
    return _element(
        seconds, lambda time: f"today, {time:%H:%M}" if today else _date(time), " data-near"
    )


def _element(seconds: float, form: Callable[[datetime], str], attributes: str) -> str:
    try:
        time = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f}"
    return f'<time datetime="{time:%Y-%m-%dT%H:%M:%SZ}"{attributes}>{form(time)} UTC</time>'


def _date(time: datetime) -> str:
    return f"{time:%-d %B %Y, %H:%M}"
