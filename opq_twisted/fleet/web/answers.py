"""Makes answers: pages for browsers, and JSON for programs."""

import json
from collections.abc import Callable, Mapping

from opq_twisted.fleet.control.answers import Content
from opq_twisted.fleet.web.views.assets import CONTENT_SECURITY_POLICY
from opq_twisted.http.negotiation import preferred
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest

#: A program such as curl, which accepts any type, gets the first one.
_MEDIA_TYPES = _JSON, _HTML = b"application/json", b"text/html"

_PAGE_HEADERS = {
    b"Content-Security-Policy": CONTENT_SECURITY_POLICY,
    b"Referrer-Policy": b"same-origin",
    b"Cross-Origin-Opener-Policy": b"same-origin",
    b"Cross-Origin-Resource-Policy": b"same-origin",
}


def is_browser(request: BoundedRequest) -> bool:
    """Whether a request prefers a page to JSON."""
    return preferred(request, _MEDIA_TYPES) == _HTML


def answer(
    request: BoundedRequest,
    code: int,
    content: Content,
    page: Callable[[], bytes],
    headers: Mapping[bytes, bytes] | None = None,
) -> Reply:
    """
    Answer a request in the form that it prefers.

    :param content: the JSON for a program.
    :param page: makes the HTML for a browser.
    """
    more = {b"Vary": b"Accept", **(headers or {})}
    if is_browser(request):
        return Reply.of(code, page(), b"text/html; charset=utf-8", {**_PAGE_HEADERS, **more})
    return Reply.of(code, json.dumps(content).encode() + b"\n", _JSON, more)
