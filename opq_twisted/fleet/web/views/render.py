"""Renders the pages of the fleet as HTML."""

import math
from collections.abc import Mapping
from typing import Any

from opq_twisted.fleet.needs import NEEDS
from opq_twisted.fleet.web.views import words
from opq_twisted.fleet.web.views.history import describe_history
from opq_twisted.fleet.web.views.parts import render_channel, render_parts
from opq_twisted.fleet.web.views.shares import share_steps
from opq_twisted.fleet.web.views.templates import fill
from opq_twisted.fleet.web.views.viewer import Viewer

_Content = Mapping[str, Any]

#: The heading for any other status.
_FAULT = "Something is wrong"


def overview(content: _Content, viewer: Viewer, done: str | None = None) -> bytes:
    """
    Render the overview.

    :param content: the state of the fleet, as in the JSON of `/fleet`.
    :param done: a sentence about the result of the last action.
    """
    values = {
        **describe_history(content["history"]),
        "content": content,
        "parts": render_parts(content, viewer),
    }
    return _page("overview", values, content, viewer, done)


def boxes(content: _Content, viewer: Viewer, done: str | None = None) -> bytes:
    """Render a list of boxes."""
    rows, wanted = content["boxes"], content["filter"]
    given = {name: value for name, value in wanted.items() if value not in (None, "")}
    values = {
        "content": content,
        "given": given,
        "need_options": [(name.replace("_", "-"), text) for name, text in NEEDS.items()],
        "next": {**given, "after": rows[-1]["id"]} if content["more"] and rows else None,
    }
    return _page("boxes", values, content, viewer, done)


def box(content: _Content, viewer: Viewer, done: str | None = None) -> bytes:
    """Render the keys of a box, and its last attempts."""
    return _page("box", {"content": content}, content, viewer, done)


def release(content: _Content, viewer: Viewer, done: str | None = None) -> bytes:
    """Render a release, with its rollout in each channel."""
    parts = {each["channel"]: render_channel(each, content, viewer) for each in content["channels"]}
    shares = {each["channel"]: _draw_shares(each, content["time"]) for each in content["channels"]}
    values = {"content": content, "parts": parts, "shares": shares}
    return _page("release", values, content, viewer, done)


def _draw_shares(channel: _Content, now: float) -> str:
    """Draw the share of a rollout over time; empty if it has not changed."""
    # A square root, because the first steps are small.
    shares = [
        (each["at"], math.sqrt(each["bp"] / 10_000), "hollow" if each["held"] else "s0")
        for each in channel["shares"]
    ]
    description = "The share of the boxes that might install it; hollow while it was held."
    return share_steps("Share over time", description, shares, now) if shares else ""


def audit(content: _Content, viewer: Viewer, done: str | None = None) -> bytes:
    """Render the changes that people and the engine have made."""
    rows = content["changes"]
    following = {"before": rows[-1]["id"]} if content["more"] and rows else None
    if following is not None and content["release"] is not None:
        following["release"] = content["release"]
    return _page("audit", {"content": content, "next": following}, content, viewer, done)


def form(content: _Content, viewer: Viewer) -> bytes:
    """Render the form of a refused action with all fields, so that it can be sent again."""
    values = {"content": content, "title": words.TITLES.get(content["code"], _FAULT)}
    return _page("form", values, content, viewer, None)


def problem(code: int, sentence: str, viewer: Viewer | None, now: float) -> bytes:
    """
    Render a page with an error.

    :param code: the status of the response.
    :param now: seconds since the epoch.
    """
    title = words.TITLES.get(code, _FAULT)
    return _page("problem", {"title": title, "sentence": sentence}, {"time": now}, viewer, None)


def _page(
    name: str,
    values: Mapping[str, Any],
    content: _Content,
    viewer: Viewer | None,
    done: str | None,
) -> bytes:
    shared = {"page": name, "viewer": viewer, "done": done, "now": content["time"]}
    # A text may contain surrogates, which UTF-8 cannot encode.
    return fill(f"{name}.html", {**shared, **values}).encode(errors="replace")
