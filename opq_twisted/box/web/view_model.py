"""The texts and facts of the box's page, made from the status."""

import re
from typing import Literal

from attrs import frozen

from opq_twisted.box.state.records import Attempt
from opq_twisted.box.state.stages import Stage
from opq_twisted.box.state.status import Progress, Status
from opq_twisted.box.web.estimate import estimate
from opq_twisted.common import wording

#: For a release that has been stopped, or whose pace the box does not understand.
_QUESTION = "No box installs this release by itself now. Install it on this box nevertheless?"

#: Seconds for which the page reports the outcome of the last update.
_NEWS_PERIOD = 24 * 3600.0


@frozen
class View:
    """
    What the page shows besides the status and the history; it hides empty texts.

    The texts name releases by their numbers. The page shows the time of each instead.
    """

    #: `good`, `news`, `busy` or `bad`.
    tone: str
    headline: str
    message: str
    #: The action that makes sense now; empty for none.
    action: Literal["update", "check", ""]
    #: What a click on Update Box does.
    promise: str
    #: The page asks this before a click on Update Box begins anything; empty: it does not ask.
    question: str
    #: The text in the place of the available release; empty: its time.
    newest: str
    #: The progress of a download.
    progress: str
    #: The part of the update that is done, from 0 to 1; by how much it grows in a second without
    #: news, and where it stops; the seconds until the end. None: nothing can be said.
    done: float | None
    pace: float
    limit: float
    left: float | None
    #: Whether headline and message report the last attempt, so that the list need not repeat it.
    reports_last: bool
    #: Facts about the stage.
    at_rest: bool
    installs: bool
    may_reboot: bool
    #: The index of the stage's label in `STEPS`; None if it has none.
    step: int | None


def view(status: Status, now: float) -> View:
    """Make the page's view of a status; `now` is in seconds since the epoch."""
    tone, headline, reported = _headline(status, now)
    action = _action(status, reported)
    rest = estimate(status, now)
    return View(
        tone=tone,
        headline=headline,
        message=_message(status, headline, reported),
        action=action,
        promise=_promise(status) if action == "update" else "",
        question=_QUESTION if action == "update" and status.held else "",
        newest=_newest(status),
        progress="" if status.progress is None else _progress_text(status.progress),
        done=None if rest is None else rest.done,
        pace=0.0 if rest is None else rest.pace,
        limit=0.0 if rest is None else rest.limit,
        left=None if rest is None else rest.left,
        reports_last=reported is not None,
        at_rest=status.stage.at_rest,
        installs=status.stage.installs,
        may_reboot=status.stage.may_reboot,
        step=status.stage.step,
    )


def describe_left(seconds: float | None) -> str:
    """Describe the time until the end of the update; empty if it is unknown."""
    if seconds is None:
        return ""
    if seconds < 60:
        return "less than a minute left"
    return f"{'about 1 minute' if seconds < 90 else wording.about(seconds)} left"


def _headline(status: Status, now: float) -> tuple[str, str, Attempt | None]:
    """Return the tone, the headline, and the attempt that it reports; None if it reports none."""
    stage, last = status.stage, status.last_attempt
    if not stage.at_rest:
        return "busy", stage.headline, None
    has_checked = last is not None and (status.last_check or 0.0) > last.ended
    if stage is Stage.FAILED and not has_checked:
        return "bad", "The last update failed", last
    if status.trouble is not None:
        return "bad", "The box cannot get updates", None
    news = last if last is not None and 0 <= now - last.ended < _NEWS_PERIOD else None
    # Before the first check after a start, the installed release stands for the newest one.
    is_unasked = status.last_check is None or status.available in (None, news and news.version)
    if news and news.outcome == "returned" and is_unasked:
        return "bad", "The box went back to its last good release", news
    if status.update_available:
        return "news", "An update is available", None
    if news and news.outcome == "updated" and not has_checked:
        return "good", "The box has been updated", news
    if status.last_check is None:
        return "news", "The box has not checked for updates since it started", None
    if _has_none(status):
        return "good", "There is no update", None
    return "good", "The box is up to date", None


def _message(status: Status, headline: str, reported: Attempt | None) -> str:
    text, last = status.message, status.last_attempt
    ready = f"Release {status.available} is available."
    if reported is not None and reported.outcome != "updated":
        # The headline has said that the box went back.
        reason = re.sub(
            r"^Release \d+ failed, and the box runs release \d+ again\. ", "", reported.reason
        )
        if text.startswith(f"Release {reported.version} is blocked: "):
            return f"{reason} The box does not install it again by itself."
        return reason if text in ("", ready, reported.reason) else text
    if last is not None and reported is None and text == last.reason:
        # After its start, the agent reports the last update, however long ago it was.
        return ""
    if text == ready:
        return f"Release {status.available} is ready to install."
    return "" if text == f"{headline}." else text


def _action(status: Status, reported: Attempt | None) -> Literal["update", "check", ""]:
    if not status.stage.at_rest:
        return ""
    if status.update_available and status.trouble is None:
        return "update"
    is_bad = status.trouble is not None or (reported is not None and reported.outcome != "updated")
    return "check" if is_bad or (status.last_check is None and reported is None) else ""


def _newest(status: Status) -> str:
    if status.available is None:
        return "none" if _has_none(status) else "unknown"
    if status.available != status.installed:
        return ""
    if status.trouble is not None:
        return "unknown"
    return "nothing newer is known" if status.last_check is None else "nothing newer"


def _has_none(status: Status) -> bool:
    return status.available is None and status.last_check is not None and status.trouble is None


def _promise(status: Status) -> str:
    size = "it" if status.size is None else f"at most {wording.size(status.size)}"
    took = ""
    if status.last_took is not None:
        took = f" Last time that took {wording.about(status.last_took)}."
    return (
        f"The box downloads {size}, installs the release and reboots. While it installs and "
        f"reboots it measures nothing.{took}"
    )


def _progress_text(progress: Progress) -> str:
    received, total = progress.received, progress.total
    return wording.download_progress(received, total, progress.rate, progress.here)
