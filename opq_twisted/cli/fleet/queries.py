"""The commands of `opq-fleet` that only show something."""

import argparse
import time
from collections.abc import Iterable, Iterator

from opq_twisted.cli.fleet import formats, rows
from opq_twisted.cli.fleet.client import FleetClient
from opq_twisted.cli.fleet.tables import say_table
from opq_twisted.cli.program import say, say_json
from opq_twisted.cli.untrusted_json import Document

#: The exit code if one of the shown releases is held.
HELD = 10

#: Rows of a page. It is small, because `head` may end the command after some rows.
_PAGE = 100

#: The width of the names of rows.
_WIDTH = 11

#: Without the timestamp's key, no server writes the releases of channels into the database.
_NO_CHANNEL = (
    "No channel has named a release yet. Rollouts need signed releases, and a server with the "
    "timestamp's key."
)


def status(options: argparse.Namespace) -> int:
    """Show the offered releases, the results of the boxes, and the boxes that need attention."""
    found = FleetClient(options.socket).get("status")
    if options.json:
        say_json(found.content)
        return _exit_code(found)
    _say_channels(found)
    _say_row("Channels", rows.no_channel_lines(found, _NO_CHANNEL))
    _say_row("Fleet", rows.fleet_lines(found))
    _say_row("Needs", rows.need_lines(found.part("needs")))
    _say_row("Changes", (rows.change_line(each) for each in found.parts("changes")))
    return _exit_code(found)


def boxes(options: argparse.Namespace) -> None:
    """List the boxes, or some of them."""
    client = FleetClient(options.socket)
    found = client.pages(
        "boxes",
        "boxes",
        "after",
        limit=_PAGE,
        channel=options.channel,
        release=options.release,
        state=options.state,
        waiting=options.waiting,
        not_seen_for=options.not_seen_for,
    )
    if options.json:
        _say_all(found)
        return
    now = time.time()
    titles = ("BOX", "KEY", "RELEASE", "STATE", "WAITS FOR", "SEEN")
    if not say_table(titles, (rows.box_row(each, now) for each in found)):
        say("No box matches.")


def box(options: argparse.Namespace) -> None:
    """Show the keys of a box, and its last attempts."""
    found = FleetClient(options.socket).get("box", name=options.box)
    if options.json:
        say_json(found.content)
        return
    now = found.number("time")
    for key in found.parts("keys"):
        for name, text in rows.key_rows(key, now):
            _say_row(name, [text] if text else [])
        say("")
    titles = ("REPORTED", "FROM", "TO", "OUTCOME", "TOOK")
    if not say_table(titles, (rows.attempt_row(each, now) for each in found.parts("attempts"))):
        say("No attempt to update was reported.")


def releases(options: argparse.Namespace) -> int:
    """List the releases that channels have named, the last one first."""
    found = FleetClient(options.socket).pages("releases", "rollouts", "before", limit=_PAGE)
    held = False

    def watched() -> Iterator[Document]:
        nonlocal held
        for each in found:
            held = held or each.text("state") == "held"
            yield each

    if options.json:
        _say_all(watched())
    else:
        titles = ("CHANNEL", "RELEASE", "STATE", "SHARE", "CEILING", "ANNOUNCED")
        if not say_table(titles, map(rows.rollout_row, watched())):
            say("No channel has named a release yet.")
    return HELD if held else 0


def release(options: argparse.Namespace) -> int:
    """Show the rollouts of a release, and the results of the boxes."""
    found = FleetClient(options.socket).get("release", release=options.release)
    if options.json:
        say_json(found.content)
        return _exit_code(found)
    _say_channels(found)
    _say_row("Channels", rows.no_channel_lines(found, "No channel has named this release."))
    _say_row("Run by", [formats.boxes(found.integer("boxes"))])
    _say_row("Bad for", map(rows.bad_line, found.parts("bad")))
    _say_row("Changes", (rows.change_line(each) for each in found.parts("changes")))
    return _exit_code(found)


def audit(options: argparse.Namespace) -> None:
    """Show the changes by people and by the engine with their reasons, the last one first."""
    found = FleetClient(options.socket).pages("audit", "changes", "before", limit=_PAGE)
    if options.json:
        _say_all(found)
        return
    is_empty = True
    for each in found:
        is_empty = False
        if not say(rows.change_line(each)):
            return
    if is_empty:
        say("Nobody has changed anything yet.")


def _say_channels(found: Document) -> None:
    _say_row("Rollouts", rows.mode_lines(found))
    for rollout in found.parts("channels"):
        _say_row(rollout.text("channel"), rows.rollout_lines(rollout))


def _say_row(name: str, lines: Iterable[str]) -> None:
    """Print lines beside a name, unless there are none."""
    text = "\n".join(lines)
    if text:
        say(f"{name:{_WIDTH}}  {text}", _WIDTH + 2)


def _say_all(found: Iterable[Document]) -> None:
    """Print a line of JSON for each."""
    for each in found:
        if not say_json(each.content):
            return


def _exit_code(found: Document) -> int:
    return HELD if found.flag("held") else 0
