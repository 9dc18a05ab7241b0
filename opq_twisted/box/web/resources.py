"""The box's HTTP resources: its page, and the status for programs."""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from attrs import asdict, fields
from twisted.internet.interfaces import IReactorTime
from twisted.web.http import FORBIDDEN, OK
from twisted.web.resource import IResource

from opq_twisted.box.state.records import STEPS, Attempt
from opq_twisted.box.state.status import Status, StatusBoard
from opq_twisted.box.update.updater import Updater
from opq_twisted.box.web.actions import BoxUpdate, Check, Unblock, as_json
from opq_twisted.box.web.auth import BasicAuth
from opq_twisted.box.web.csrf import CsrfCheck
from opq_twisted.box.web.events import Events
from opq_twisted.box.web.host_check import HostCheck
from opq_twisted.box.web.log import InstallerLog
from opq_twisted.box.web.view_model import View, describe, outcome, view
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource

_PAGE = Path(__file__).with_name("page")

_PAGE_HEADERS = {
    b"Content-Security-Policy": b"default-src 'none'; script-src 'self'; style-src 'self'; "
    b"img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    b"base-uri 'none'",
    b"Referrer-Policy": b"same-origin",
    b"Cross-Origin-Opener-Policy": b"same-origin",
    b"Cross-Origin-Resource-Policy": b"same-origin",
}

#: The page's files and their content types.
_FILES = {
    "page.css": b"text/css; charset=utf-8",
    "page.js": b"text/javascript; charset=utf-8",
    "icon.svg": b"image/svg+xml",
}

#: Reloads the page while an update runs, for browsers without JavaScript.
_AUTO_REFRESH = '<noscript><meta http-equiv="refresh" content="5"></noscript>'


def make_root(
    clock: IReactorTime,
    updater: Updater,
    board: StatusBoard,
    host_check: HostCheck,
    csrf_check: CsrfCheck,
    basic_auth: BasicAuth | None,
    log: Path,
    now: Callable[[], float],
) -> IResource:
    """
    Make the tree of the agent's resources.

    :param basic_auth: checks the password of the actions; None if the box has none.
    :param log: the path of the installer's log.
    :param now: the time of day, in seconds since the epoch.
    """

    def status_of(status: Status) -> dict[str, Any]:
        return {**asdict(status), "page": asdict(view(status, now()))}

    def history() -> dict[str, Any]:
        attempts, blocked = updater.history
        return {
            "attempts": [asdict(attempt) for attempt in attempts],
            "refused": [asdict(release) for release in blocked],
        }

    def page() -> Reply:
        attempts, _ = updater.history
        body = _render(template, board.current, attempts, now())
        return Reply.of(OK, body.encode(), b"text/html; charset=utf-8", _PAGE_HEADERS)

    template = Template((_PAGE / "index.html").read_text(encoding="utf-8"))
    parts = (updater, board, csrf_check, basic_auth)
    root = Root(host_check)
    # The page works without JavaScript; its script keeps it current.
    root.putChild(b"", GetResource(page))
    for name, content_type in _FILES.items():
        content = (_PAGE / name).read_bytes()
        root.putChild(name.encode(), GetResource(partial(Reply.of, OK, content, content_type)))
    root.putChild(
        b"version", GetResource(lambda: as_json(OK, {"version": board.current.installed}))
    )
    root.putChild(b"status", GetResource(lambda: as_json(OK, status_of(board.current))))
    root.putChild(b"history", GetResource(lambda: as_json(OK, history())))
    root.putChild(
        b"events", Events(clock, board, lambda status: json.dumps(status_of(status)).encode())
    )
    root.putChild(b"log", InstallerLog(log))
    root.putChild(b"check", Check(*parts))
    root.putChild(b"box_update", BoxUpdate(clock, *parts))
    root.putChild(b"forgive", Unblock(*parts))
    return root


class GetResource(PlainResource):
    """Answers GET with the result of a function."""

    def __init__(self, make_reply: Callable[[], Reply]) -> None:
        super().__init__()
        self._make_reply = make_reply

    def render_GET(self, request: BoundedRequest) -> Reply:
        """Make the reply."""
        return self._make_reply()


class Root(PlainResource):
    """Answers 403 to every request whose Host header is not a name of this box."""

    def __init__(self, host_check: HostCheck) -> None:
        super().__init__()
        self._host_check = host_check

    def getChildWithDefault(self, path: bytes, request: BoundedRequest) -> IResource:
        """Find a resource, if the request is for this box."""
        error = self._host_check.error(request)
        return Forbidden(error) if error else super().getChildWithDefault(path, request)


class Forbidden(PlainResource):
    """403 with the reason."""

    isLeaf = True

    def __init__(self, reason: str) -> None:
        super().__init__()
        self._reason = reason

    def render(self, request: BoundedRequest) -> int:
        """Answer any method."""
        return request.reply(Reply.sentence(FORBIDDEN, self._reason))


def _render(template: Template, status: Status, attempts: Sequence[Attempt], now: float) -> str:
    shown = view(status, now)
    return template.substitute(
        **_texts(shown),
        notes=escape(status.notes or ""),
        notes_hidden="" if status.notes and status.update_available else "hidden",
        stages=_stages(shown),
        history=_history(reversed(attempts)),
        until=attempts[-1].ended if attempts else 0,
        auto_refresh="" if shown.at_rest else _AUTO_REFRESH,
        disabled="" if shown.at_rest else "disabled",
        stages_hidden="hidden" if shown.step is None else "",
        unsigned_hidden="" if status.unsigned else "hidden",
        history_hidden="" if attempts else "hidden",
        log_open="open" if shown.installs else "",
    )


def _texts(shown: View) -> dict[str, str]:
    """Return each text, and a `hidden` attribute for each empty one."""
    texts = {field.name: getattr(shown, field.name) for field in fields(View) if field.type is str}
    return {
        **{name: escape(text) for name, text in texts.items()},
        **{f"{name}_hidden": "" if text else "hidden" for name, text in texts.items()},
    }


def _stages(shown: View) -> str:
    items = []
    for number, name in enumerate(STEPS):
        mark = ""
        if shown.step is not None and number <= shown.step:
            mark = ' aria-current="step"' if number == shown.step else ' class="past"'
        items.append(f"<li{mark}>{name}</li>")
    return "".join(items)


def _history(attempts: Iterable[Attempt]) -> str:
    return "".join(
        f'<li data-outcome="{escape(attempt.outcome)}"><strong>{escape(outcome(attempt))}</strong> '
        f"<span>{escape(describe(attempt))}</span><p>{escape(attempt.reason)}</p></li>"
        for attempt in attempts
    )
