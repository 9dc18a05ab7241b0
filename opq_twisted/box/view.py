"""Says how the box is in the words of its page."""

import time

from attrs import frozen

from opq_twisted.box.journal import Attempt, Stage
from opq_twisted.box.status import Progress, Status

#: What each stage is called in the row of stages, in their order.
STAGES = {
    Stage.CHECKING: "Check",
    Stage.DOWNLOADING: "Download",
    Stage.VERIFYING: "Verify",
    Stage.UNPACKING: "Unpack",
    Stage.INSTALLING: "Install",
    Stage.REBOOTING: "Reboot",
    Stage.CONFIRMING: "Confirm",
}

_UNDER_WAY = {
    Stage.CHECKING: "Looking for an update",
    Stage.REBOOTING: "The box is rebooting",
    Stage.CONFIRMING: "Trying the new release",
    Stage.RETURNING: "Going back to the last good release",
}

_OUTCOMES = {"updated": "Updated", "returned": "Went back", "failed": "Failed"}

#: Seconds; after a longer wait nobody has the outcome of the last update in mind.
_NEWS = 24 * 3600.0


@frozen
class View:
    """What the page shows besides the history; empty texts are not shown."""

    #: `good`, `news`, `busy` or `bad`.
    tone: str
    headline: str
    message: str
    installed: str
    available: str
    #: What is said of the release that is available.
    notes: str
    #: What a click on Update Box will do.
    promise: str
    #: How far a download is.
    progress: str
    checked: str
    #: How the last update ended, while that is news.
    outcome: str
    at_rest: bool
    #: Which of `STAGES` it is; None for none of them.
    step: int | None


def view(status: Status, now: float) -> View:
    """
    Word a status.

    :param now: the time of day, in seconds since the epoch.
    """
    tone, headline = _headline(status, now)
    steps, last = list(STAGES), _last_news(status, now)
    return View(
        tone=tone,
        headline=headline,
        message=status.message,
        installed=_release(status.installed),
        available=_release(status.available),
        notes=(status.notes or "") if status.update_available else "",
        promise=_promise(status) if status.stage.at_rest else "",
        progress="" if status.progress is None else _how_far(status.progress),
        checked=_checked(status),
        outcome=last.reason if last is not None and last.reason != status.message else "",
        at_rest=status.stage.at_rest,
        step=steps.index(status.stage) if status.stage in steps else None,
    )


def moment(seconds: float) -> str:
    """Word a time of day, as the box has it."""
    return time.strftime("%-d %B %Y, %H:%M", time.localtime(seconds))


def outcome(attempt: Attempt) -> str:
    """Name how an attempt ended."""
    return _OUTCOMES.get(attempt.outcome, attempt.outcome)


def _headline(status: Status, now: float) -> tuple[str, str]:
    stage = status.stage
    if not stage.at_rest:
        return "busy", _UNDER_WAY.get(stage, "Updating the box")
    if stage is Stage.FAILED:
        return "bad", "The last update failed"
    if status.trouble is not None:
        return "bad", "The box cannot look for updates"
    last = _last_news(status, now)
    if last is not None and last.outcome == "returned":
        return "bad", "The box went back to its last good release"
    if status.update_available:
        return "news", "An update is available"
    if status.last_check is None:
        if last is not None and last.outcome == "updated":
            return "good", "The box has been updated"
        return "good", "The box has not looked for updates yet"
    if status.available is None:
        return "good", "There is no update"
    return "good", "The box is up to date"


def _release(version: int | None) -> str:
    # A version is when the release was built.
    return "unknown" if version is None else f"{moment(version)} ({version})"


def _promise(status: Status) -> str:
    if not status.update_available:
        return "The box asks for the newest release, and installs it if there is one."
    size = "it" if status.size is None else _megabytes(status.size)
    took = (
        "" if status.last_took is None else f" Last time that took {_duration(status.last_took)}."
    )
    return (
        f"The box downloads {size}, installs the release and reboots; meanwhile it measures "
        f"nothing for a while.{took}"
    )


def _how_far(progress: Progress) -> str:
    here, rate = _megabytes(progress.received), _megabytes(progress.rate)
    if progress.total is None:
        return f"{here}, {rate} a second"
    left = ""
    if progress.rate > 0:
        left = f", {_duration((progress.total - progress.received) / progress.rate)} left"
    return f"{here} of {_megabytes(progress.total)}, {rate} a second{left}"


def _checked(status: Status) -> str:
    last = (
        status.last_check and f"The box last looked for an update on {moment(status.last_check)}."
    )
    after = (
        status.next_check
        and f"It looks next at {time.strftime('%H:%M', time.localtime(status.next_check))}."
    )
    return " ".join(each for each in (last, after) if each)


def _last_news(status: Status, now: float) -> Attempt | None:
    """Give the last attempt, while it is news."""
    last = status.last_attempt
    fresh = last is not None and status.stage.at_rest and 0 <= now - last.ended < _NEWS
    return last if fresh else None


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    count, unit = (seconds, "second") if seconds < 90 else (seconds / 60, "minute")
    number = max(1, round(count))
    return f"about {number} {unit}{'' if number == 1 else 's'}"
