"""The texts of the box's page, made from the status."""

import time

from attrs import frozen

from opq_twisted.box.state.records import Attempt, Stage
from opq_twisted.box.state.status import Progress, Status
from opq_twisted.common import wording

_OUTCOMES = {"updated": "Updated", "returned": "Went back", "failed": "Failed"}

#: Seconds for which the page reports the outcome of the last update.
_NEWS_PERIOD = 24 * 3600.0


@frozen
class View:
    """The texts of the page, without the history; the page hides empty texts."""

    #: `good`, `news`, `busy` or `bad`.
    tone: str
    headline: str
    message: str
    installed: str
    available: str
    #: What a click on Update Box does.
    promise: str
    #: The progress of a download.
    progress: str
    checked: str
    #: The reason why the last update failed, while that is news.
    outcome: str
    #: Facts about the stage.
    at_rest: bool
    installs: bool
    may_reboot: bool
    #: The index of the stage's label in `STEPS`; None if it has none.
    step: int | None


def view(status: Status, now: float) -> View:
    """Make the texts for a status; `now` is in seconds since the epoch."""
    tone, headline = _headline(status, now)
    last = _last_news(status, now)
    return View(
        tone=tone,
        headline=headline,
        message="" if status.message == f"{headline}." else status.message,
        installed=_release(status.installed),
        available="none" if _has_none(status) else _release(status.available),
        promise=_promise(status) if status.stage.at_rest else "",
        progress="" if status.progress is None else _progress_text(status.progress),
        checked=_checked(status),
        outcome="" if last is None else _failure_reason(last, status.message),
        at_rest=status.stage.at_rest,
        installs=status.stage.installs,
        may_reboot=status.stage.may_reboot,
        step=status.stage.step,
    )


def moment(seconds: float) -> str:
    """Format a time in the box's local time; an impossible time is returned as a number."""
    return _formatted("%-d %B %Y, %H:%M %Z", seconds)


def outcome(attempt: Attempt) -> str:
    """Return the heading of an attempt in the history."""
    return _OUTCOMES.get(attempt.outcome, attempt.outcome)


def describe(attempt: Attempt) -> str:
    """Return the end of an attempt, its duration and its release."""
    took = wording.about(attempt.ended - attempt.started)
    of_release = "" if attempt.version is None else f", release of {_release(attempt.version)}"
    return f"{moment(attempt.ended)}, {took}{of_release}"


def _headline(status: Status, now: float) -> tuple[str, str]:
    stage = status.stage
    if not stage.at_rest:
        return "busy", stage.headline
    if stage is Stage.FAILED and not _has_checked_since(status):
        return "bad", "The last update failed"
    if status.trouble is not None:
        return "bad", "The box cannot get updates"
    last = _last_news(status, now)
    if last is not None and last.outcome == "returned":
        return "bad", "The box went back to its last good release"
    if status.update_available:
        return "news", "An update is available"
    if last is not None and last.outcome == "updated" and not _has_checked_since(status):
        return "good", "The box has been updated"
    if status.last_check is None:
        return "news", "The box has not checked for updates since it started"
    if _has_none(status):
        return "good", "There is no update"
    return "good", "The box is up to date"


def _has_checked_since(status: Status) -> bool:
    """Whether the box has checked for updates since the last attempt, which is no news then."""
    last = status.last_attempt
    return last is not None and (status.last_check or 0.0) > last.ended


def _has_none(status: Status) -> bool:
    return status.available is None and status.last_check is not None and status.trouble is None


def _release(version: int | None) -> str:
    # A version is the time at which the release was built.
    return "unknown" if version is None else f"{moment(version)} ({version})"


def _promise(status: Status) -> str:
    if not status.update_available or status.trouble is not None:
        return "The box asks for the newest release; if there is one it installs it and reboots."
    size = "it" if status.size is None else wording.size(status.size)
    took = ""
    if status.last_took is not None:
        took = f" Last time that took {wording.about(status.last_took)}."
    return (
        f"The box downloads {size}, installs the release and reboots. While it installs and "
        f"reboots it measures nothing.{took}"
    )


def _progress_text(progress: Progress) -> str:
    here, rate = wording.size(progress.received), wording.size(progress.rate)
    if progress.total is None:
        return f"{here}, {rate} a second"
    left = ""
    if progress.rate > 0:
        left = f", {wording.about((progress.total - progress.received) / progress.rate)} left"
    return f"{here} of {wording.size(progress.total)}, {rate} a second{left}"


def _checked(status: Status) -> str:
    last, following = status.last_check, status.next_check
    sentences = []
    if last is not None:
        sentences.append(f"The last check was on {moment(last)}.")
    if following is not None:
        sentences.append(f"The next check is at {_formatted('%H:%M', following)}.")
    return " ".join(sentences)


def _failure_reason(attempt: Attempt, message: str) -> str:
    """Return the reason of a failed attempt, unless the message contains it already."""
    shown = message.partition(" is blocked: ")[2] or message
    is_shown = bool(shown) and attempt.reason.endswith(shown)
    return "" if attempt.outcome == "updated" or is_shown else attempt.reason


def _last_news(status: Status, now: float) -> Attempt | None:
    """Return the last attempt while it is news."""
    last = status.last_attempt
    fresh = last is not None and status.stage.at_rest and 0 <= now - last.ended < _NEWS_PERIOD
    return last if fresh else None


def _formatted(form: str, seconds: float) -> str:
    try:
        return time.strftime(form, time.localtime(seconds))
    except (OverflowError, OSError, ValueError):
        return f"{seconds:.0f}"
