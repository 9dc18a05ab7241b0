"""The box's HTTP resources: its page, and the status for programs."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from string import Template
from typing import Any

from attrs import asdict
from twisted.internet.interfaces import IReactorTime
from twisted.web.http import FORBIDDEN, OK
from twisted.web.resource import IResource

from opq_twisted.box.report.record import ReportRecord
from opq_twisted.box.state.status import Status, StatusBoard
from opq_twisted.box.update.updater import Updater
from opq_twisted.box.web.actions import BoxUpdate, Check, Unblock, as_json
from opq_twisted.box.web.auth import BasicAuth
from opq_twisted.box.web.branding import Branding
from opq_twisted.box.web.csrf import CsrfCheck
from opq_twisted.box.web.events import Events
from opq_twisted.box.web.log import InstallerLog
from opq_twisted.box.web.page_html import older_texts, past_key, render
from opq_twisted.box.web.view_model import view
from opq_twisted.http.guards.host_check import HostCheck
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource
from opq_twisted.http.stylesheet import SHARED_STYLE

_PAGE = Path(__file__).with_name("page")

_PAGE_HEADERS = {
    b"Content-Security-Policy": b"default-src 'none'; script-src 'self'; style-src 'self'; "
    b"img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    b"base-uri 'none'",
    b"Referrer-Policy": b"same-origin",
    b"Cross-Origin-Opener-Policy": b"same-origin",
    b"Cross-Origin-Resource-Policy": b"same-origin",
}

#: A logo is only shown as an image; opened by itself, an SVG runs no script and loads nothing.
_LOGO_HEADERS = {
    b"Content-Security-Policy": b"default-src 'none'; style-src 'unsafe-inline'; sandbox; "
    b"frame-ancestors 'none'",
    b"Cross-Origin-Resource-Policy": b"same-origin",
}


def make_root(
    clock: IReactorTime,
    updater: Updater,
    board: StatusBoard,
    hosts: Iterable[str],
    csrf_check: CsrfCheck,
    basic_auth: BasicAuth | None,
    log: Path,
    now: Callable[[], float],
    branding: Branding,
    reports: ReportRecord,
) -> IResource:
    """
    Make the tree of the agent's resources.

    :param hosts: names that the box answers to besides its own.
    :param basic_auth: checks the password of the actions; None if the box has none.
    :param log: the path of the installer's log.
    :param now: the time of day, in seconds since the epoch.
    :param branding: title, logo and colour of the page.
    :param reports: what the box tells the update server.
    """

    def status_of(status: Status) -> dict[str, Any]:
        shown = view(status, now())
        page = {**asdict(shown), **older_texts(status), "past": past_key(status, shown)}
        return {**asdict(status), "page": page}

    def history() -> dict[str, Any]:
        attempts, blocked = updater.history
        return {
            "attempts": [asdict(attempt) for attempt in attempts],
            "refused": [asdict(release) for release in blocked],
        }

    def page() -> Reply:
        attempts, _ = updater.history
        body = render(template, branding, board.current, attempts, reports, now())
        return Reply.of(OK, body.encode(), b"text/html; charset=utf-8", _PAGE_HEADERS)

    template = Template(_read("index.html"))
    parts = (updater, board, csrf_check, basic_auth)
    root = Root(HostCheck(hosts))
    # The page works without JavaScript; its script keeps it current.
    root.putChild(b"", GetResource(page))
    style = SHARED_STYLE + _read("page.css") + branding.style
    for name, reply in {
        "page.css": Reply.of(
            OK, _compact(style.replace(": ", ":").replace(" {", "{")), b"text/css; charset=utf-8"
        ),
        "page.js": Reply.of(OK, _compact(_read("page.js")), b"text/javascript; charset=utf-8"),
        branding.logo_name: Reply.of(OK, branding.logo, branding.logo_type, _LOGO_HEADERS),
    }.items():
        root.putChild(name.encode(), _fixed(reply))
    root.putChild(
        b"version", GetResource(lambda: as_json(OK, {"version": board.current.installed}))
    )
    root.putChild(b"status", GetResource(lambda: as_json(OK, status_of(board.current))))
    root.putChild(b"history", GetResource(lambda: as_json(OK, history())))
    root.putChild(b"report", GetResource(lambda: as_json(OK, asdict(reports))))
    root.putChild(
        b"events", Events(clock, board, lambda status: json.dumps(status_of(status)).encode())
    )
    root.putChild(b"log", InstallerLog(log))
    root.putChild(b"check", Check(*parts))
    root.putChild(b"box_update", BoxUpdate(clock, *parts))
    root.putChild(b"forgive", Unblock(*parts))
    return root


def _read(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")


def _compact(source: str) -> bytes:
    """Leave out the indentation and the comments of CSS or JavaScript, which each page takes."""
    lines = (line.strip() for line in source.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//")).encode()


def _fixed(reply: Reply) -> PlainResource:
    return GetResource(lambda: reply)


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
        name = self._host_check.find_foreign(request)
        if name is None:
            found: IResource = super().getChildWithDefault(path, request)
            return found
        return Forbidden(
            f"This box does not answer to the name {name!r}. Use its address, or "
            'add the name to "hosts" under "updater" in its configuration.'
        )


class Forbidden(PlainResource):
    """403 with the reason."""

    isLeaf = True

    def __init__(self, reason: str) -> None:
        super().__init__()
        self._reason = reason

    def render(self, request: BoundedRequest) -> int:
        """Answer any method."""
        return request.reply(Reply.sentence(FORBIDDEN, self._reason))
