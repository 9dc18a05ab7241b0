"""Says which boxes get which release, as HTML for the page of `/ls`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from attrs import evolve
from tuf.api.metadata import TargetFile, Timestamp

from opq_twisted.archive.name import UpdateName
from opq_twisted.common import wording
from opq_twisted.common.errors import Untrusted
from opq_twisted.server.catalog.snapshot import Snapshot
from opq_twisted.trust.offer import Offer, read_offer
from opq_twisted.trust.pace import ALL, read_pace

#: Maximum channels of a page, because each request renders the page again.
_MAX_CHANNELS = 8

#: Characters and lines. Longer release notes are folded.
_SHORT_NOTES = 400
_SHORT_LINES = 6


def describe_channels(
    channels: Sequence[tuple[str, TargetFile]], timestamp: Timestamp, offered: Snapshot
) -> str:
    """
    Describe the first channels, and say how many are left out.

    :param timestamp: has the pace of their releases.
    :param offered: the archives that boxes can download.
    """
    parts: list[str] = []
    seen: set[str] = set()
    for name, target in channels[:_MAX_CHANNELS]:
        try:
            offer = read_offer(target)
        except Untrusted as error:
            words, notes = escape(str(error)), ""
        else:
            offer = evolve(offer, pace=read_pace(timestamp, name, offer.version))
            words, notes = " ".join(_sentences(offer, offered)), _notes(offer)
        if notes in seen:
            notes = ""  # they are those of the same release in another channel
        seen.add(notes)
        parts.append(f"<div>\n<h3>Channel {escape(name)}</h3>\n<p>{words}</p>\n{notes}</div>\n")
    shown, left = "".join(parts), len(channels) - _MAX_CHANNELS
    return f"{shown}<p>There are {left} more channels.</p>\n" if left > 0 else shown


def time_of(version: int) -> str:
    """Write the time at which a release was built."""
    words = wording.long_utc(version)
    try:
        time = datetime.fromtimestamp(version, UTC)
    except (ValueError, OverflowError, OSError):
        return words
    return f'<time datetime="{time:%Y-%m-%dT%H:%MZ}">{words}</time>'


def _sentences(offer: Offer, offered: Snapshot) -> list[str]:
    newest = f"the release of {time_of(offer.version)}"
    before = offer.before and f"the release of {time_of(offer.before.version)}"
    if offer.is_for_all:
        sentences = [f"All boxes get {newest}."]
    elif offer.is_held_back:
        others = f"All boxes get {before} instead." if before else "No box installs it by itself."
        sentences = [f"T{newest[1:]} is held back.", others]
    else:
        assert offer.rollout is not None
        others = f"get {before} until their turn comes" if before else "wait for their turn"
        sentences = [f"{offer.rollout.percent} % of the boxes get {newest}. The others {others}."]
    if offer.critical:
        sentences.append("It is critical: no box has to wait for its turn.")
    sentences += _describe_pace(offer)
    if offer.allow_downgrade:
        sentences.append("Boxes with a newer release may go back to it.")
    if offered.find(str(UpdateName(offer.version))) is None:
        sentences.append(f"No box can download {newest}: its archive is not here.")
    return sentences


def _describe_pace(offer: Offer) -> list[str]:
    signed = ALL if offer.rollout is None else 100 * offer.rollout.percent
    if offer.is_stopped:
        return ["It is stopped for now: no box installs it by itself."]
    if offer.pace is None or offer.critical or offer.pace.bp >= signed:
        return []
    return [f"For now it goes to {offer.pace.bp / 100:g} % of the boxes only."]


def _notes(offer: Offer) -> str:
    """Write the release notes, whose lines are kept by the stylesheet."""
    if not offer.notes:
        return ""
    text = f'dir="auto">{escape(offer.notes)}'
    if len(offer.notes) <= _SHORT_NOTES and offer.notes.count("\n") < _SHORT_LINES:
        return f'<p class="notes" {text}</p>\n'
    # It scrolls, so the keyboard has to reach it.
    region = '<div class="notes" role="region" aria-label="Release notes" tabindex="0"'
    return f"<details>\n<summary>Release notes</summary>\n{region} {text}</div>\n</details>\n"
