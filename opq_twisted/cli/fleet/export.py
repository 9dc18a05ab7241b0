"""`opq-fleet export`: writes all boxes or attempts for other programs."""

import argparse
import csv
import io
from collections.abc import Iterable

from opq_twisted.cli.fleet.client import FleetClient
from opq_twisted.cli.program import say_json, say_line

#: The columns of each table, in their order.
COLUMNS = {
    "boxes": (
        *("id", "box_id", "key_id", "state", "channel", "release", "agent", "arch", "python"),
        *("install", "waiting", "root", "snapshot", "last_good", "refused", "seq", "first_seen"),
        *("last_seen", "cloned_at", "label"),
    ),
    "attempts": (
        *("box", "attempt_id", "release", "from_release", "began", "took", "automatic", "stage"),
        *("outcome", "reason", "inferred", "tries", "fetched", "size", "received", "ended_at"),
    ),
}

#: If a cell begins with one of these, spreadsheets treat it as a formula.
_FORMULA = ("=", "+", "-", "@", "\t")


def export(options: argparse.Namespace) -> None:
    """Write all boxes, or all attempts, as CSV or as lines of JSON."""
    client = FleetClient(options.socket)
    rows = (
        client.pages("boxes", "boxes", "after", state="any")
        if options.what == "boxes"
        else client.attempts()
    )
    columns = COLUMNS[options.what]
    if not options.json and not say_line(_line(columns)):
        return
    for row in rows:
        content = {name: row.content.get(name) for name in columns}
        said = say_json(content) if options.json else say_line(_line(content.values()))
        if not said:
            return


def _line(values: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(map(_cell, values))
    return line.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " ".join(map(str, value))
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) and not isinstance(value, int | float) else text
