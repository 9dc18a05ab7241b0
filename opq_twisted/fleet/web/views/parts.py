"""Renders the parts of the overview that change while it is open."""

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from opq_twisted.fleet.needs import NEEDS
from opq_twisted.fleet.web.views import formats
from opq_twisted.fleet.web.views.banner import Banner
from opq_twisted.fleet.web.views.shares import share_bar
from opq_twisted.fleet.web.views.templates import fill
from opq_twisted.fleet.web.views.viewer import Viewer

_Content = Mapping[str, Any]


def render_parts(content: _Content, viewer: Viewer) -> Mapping[str, Markup]:
    """
    Return the HTML of each part by its name.

    :param content: the state of the fleet, as in the JSON of `/fleet`.
    """
    values = {"content": content, "now": content["time"], "viewer": viewer}
    parts = {
        "time": _time(content),
        "notices": fill("notices.html", values),
        "fleet": fill("fleet.html", {**values, "shares": [*_shares(content)]}),
        "needs": fill("needs.html", {**values, "needed": [*_needed(content)]}),
        "decisions": fill("decisions.html", values),
    }
    for channel in content["channels"]:
        parts |= render_channel(channel, content, viewer)
    return {name: Markup(html) for name, html in parts.items()}  # noqa: S704


def render_channel(channel: _Content, content: _Content, viewer: Viewer) -> Mapping[str, str]:
    """Render the parts of a rollout."""
    banner = Banner.of(channel, content["rollouts"])
    values = {
        "channel": channel,
        "assessment": channel["assessment"],
        "banner": banner,
        "bar": _outcome_bar(banner),
        "now": content["time"],
        "viewer": viewer,
    }
    name = channel["channel"]
    return {
        f"head-{name}": fill("channel_head.html", values),
        f"actions-{name}": fill("channel_actions.html", values),
        f"body-{name}": fill("channel.html", values),
    }


def _outcome_bar(banner: Banner) -> str:
    parts = (("well", banner.well), ("bad", banner.bad), ("going", banner.under_way))
    title = (
        f"{banner.well:,} updated, {banner.bad:,} bad, {banner.under_way:,} under way"
        if banner.boxes
        else "No box has begun"
    )
    return share_bar(title, parts, banner.boxes)


def _time(content: _Content) -> Markup:
    return Markup("{}, as of {}").format(
        formats.boxes(content["boxes"]), formats.clock(content["time"])
    )


def _shares(content: _Content) -> Iterator[tuple[str, int | None, int, str]]:
    """Yield a label, a release or None, the number of boxes, and a bar, for each row."""
    rows: list[tuple[str, int | None, int]] = [
        (f"Release {each['release']}", each["release"], each["boxes"])
        for each in content["releases"]
    ]
    for label, number in (("Others", content["others"]), ("Unknown", content["unknown"])):
        if number:
            rows.append((label, None, number))
    for place, (label, release, number) in enumerate(rows):
        # A class of style.css: s6 is the colour of all others.
        name = f"s{min(place, 6)}" if release is not None else "s6"
        yield label, release, number, share_bar(f"{number:,}", ((name, number),), content["boxes"])


def _needed(content: _Content) -> Iterator[tuple[str, str, _Content]]:
    for name, text in NEEDS.items():
        need = content["needs"][name]
        if need["boxes"]:
            yield name.replace("_", "-"), text, need
