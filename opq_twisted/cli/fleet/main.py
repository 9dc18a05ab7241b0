"""`opq-fleet`: the command line of the people who look after a fleet of boxes."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from opq_twisted.archive.name import parse_version
from opq_twisted.cli.fleet.changes import (
    admit,
    distrust,
    forget,
    hold,
    resume,
    webhook_test,
    widen,
)
from opq_twisted.cli.fleet.export import COLUMNS, export
from opq_twisted.cli.fleet.operators import add_operator, add_token, operators, remove_operator
from opq_twisted.cli.fleet.queries import HELD, audit, box, boxes, release, releases, status
from opq_twisted.cli.parser import Command, Parser, add_command
from opq_twisted.cli.program import run, say, say_json
from opq_twisted.common.errors import InvalidName

_SOCKET, _SOCKET_VARIABLE = "/run/opq-update-server/fleet.sock", "OPQ_FLEET_SOCKET"

_STATES = ("known", "admitted", "distrusted", "replaced", "gone", "any")
_WAITING = (
    *("turn", "held", "click", "window", "measurement", "refused", "clock", "stale"),
    *("untrusted", "server"),
)

_OPERATORS, _OPERATORS_VARIABLE = (
    "/var/lib/opq-update-server/operators",
    "OPQ_FLEET_OPERATORS",
)

#: The commands that need the operators' file, and no server.
_WITH_FILE = (operators, add_operator, add_token, remove_operator)

_CHANGES = (hold, resume, widen, admit, distrust, forget)

_ROLES = ("viewer", "operator")

#: A century.
_MAX_DAYS = 36525


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, and return the exit code."""
    return run("opq-fleet", make_parser().parse_args(arguments))


def migrate(options: argparse.Namespace) -> None:
    """Make or migrate the tables of a database; no server need run."""
    # Imported late, because no other command needs the packages for a database.
    from opq_twisted.cli.fleet.migrate import migrate as migrate_database

    sentence = migrate_database(options.fleet_db)
    if options.json:
        say_json({"status": sentence})
    else:
        say(sentence)


def make_parser() -> Parser:
    """Define the command line."""
    parser = Parser(
        prog="opq-fleet",
        description="See which boxes run which release, and hold, slow or widen a rollout.",
        epilog="The exit code is 0 for success, 1 for a failure, and 2 for a wrong command line. "
        f"status, releases and release end with {HELD} if they show a release that is held. The "
        f"default of --socket is {_SOCKET_VARIABLE} in the environment, or {_SOCKET}, and that of "
        f"--operators {_OPERATORS_VARIABLE}, or {_OPERATORS}. The server "
        "lets in root, its own user, and the members of the group of the socket.",
    )
    parser.add_version()
    commands = parser.add_commands()

    def add(name: str, command: Command) -> Parser:
        sub = add_command(commands, name, command)
        sub.add_argument("--json", action="store_true", help="print JSON")
        if command in _WITH_FILE:
            sub.add_argument(
                "--operators",
                type=Path,
                metavar="FILE",
                default=os.environ.get(_OPERATORS_VARIABLE) or _OPERATORS,
                help=f"the file of --fleet-operators (default: {_OPERATORS_VARIABLE})",
            )
        elif command is not migrate:
            sub.add_argument(
                "--socket",
                metavar="PATH",
                default=os.environ.get(_SOCKET_VARIABLE) or _SOCKET,
                help=f"the socket of the update server (default: {_SOCKET_VARIABLE})",
            )
        if command in _CHANGES:
            sub.add_argument(
                "--because", required=True, metavar="TEXT", help="the reason, for the audit"
            )
        return sub

    add("status", status)
    sub = add("boxes", boxes)
    sub.add_argument("--channel", metavar="NAME", help="boxes of this channel")
    _add_release(sub, "--release", help="boxes that run this release")
    text = "keys in this state (default: known and admitted)"
    sub.add_argument("--state", choices=_STATES, help=text)
    sub.add_argument("--waiting", choices=_WAITING, help="boxes with this reason to wait")
    text = "boxes that have not reported for so many days"
    sub.add_argument("--not-seen-for", type=_days, metavar="DAYS", help=text)
    text = "the number of a box, or the fingerprint of a key, at least its first 8 digits"
    add("box", box).add_argument("box", metavar="BOX", help=text)
    add("releases", releases)
    _add_release(add("release", release), "release")
    _add_rollout(add("hold", hold))
    sub = add("resume", resume)
    _add_rollout(sub)
    _add_share(sub, "--at", "a smaller share of the boxes, to slow it (default: as before)")
    sub = add("widen", widen)
    _add_rollout(sub)
    _add_share(sub, "--to", "the share of the boxes (default: the next step)")
    text = "lines BOX_ID,FINGERPRINT, at most 10,000"
    add("admit", admit).add_argument("file", type=Path, metavar="FILE", help=text)
    text = "the fingerprint of the key, at least its first 8 digits"
    add("distrust", distrust).add_argument("key", metavar="KEY", help=text)
    text = "the number of a box, or the fingerprint of one of its keys"
    add("forget", forget).add_argument("box", metavar="BOX", help=text)
    add("audit", audit)
    sub = add("export", export)
    sub.add_argument("what", choices=tuple(COLUMNS), metavar="WHAT", help="boxes or attempts")
    add("webhook-test", webhook_test)
    add("operators", operators)
    text = "the name, which the audit will show"
    for name, command in (("add-operator", add_operator), ("add-token", add_token)):
        sub = add(name, command)
        sub.add_argument("name", metavar="NAME", help=text)
        sub.add_argument(
            "--role",
            choices=_ROLES,
            required=True,
            help="a viewer sees all pages, an operator may also change rollouts and keys",
        )
    text = "the name of a person or a program"
    add("remove-operator", remove_operator).add_argument("name", metavar="NAME", help=text)
    sub = add("migrate", migrate)
    text = "the database: sqlite:///PATH or postgresql://..."
    sub.add_argument("--fleet-db", required=True, metavar="URL", help=text)
    return parser


def _add_rollout(sub: Parser) -> None:
    """Add the arguments that name a rollout."""
    _add_release(sub, "release")
    text = "the channel, if several have named the release"
    sub.add_argument("--channel", metavar="NAME", help=text)


def _add_release(sub: Parser, name: str, help: str = "the version of the release") -> None:
    sub.add_argument(name, type=_version, metavar="VERSION", help=help)


def _add_share(sub: Parser, name: str, text: str) -> None:
    sub.add_argument(name, type=_share, metavar="PERCENT", help=text)


def _version(text: str) -> int:
    try:
        return parse_version(text)
    except InvalidName as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _share(text: str) -> int:
    """Read percents as hundredths of a percent."""
    match = re.fullmatch(r"([0-9]{1,3})(?:\.([0-9]{1,2}))? ?%?", text, re.ASCII)
    bp = int(match[1]) * 100 + int((match[2] or "").ljust(2, "0")) if match else -1
    if not 0 <= bp <= 10_000:
        raise argparse.ArgumentTypeError(
            f"give a share from 0 to 100, such as 5 or 0.25, not {text!r}"
        )
    return bp


def _days(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) or int(text) > _MAX_DAYS:
        raise argparse.ArgumentTypeError(f"give a number of days up to {_MAX_DAYS}, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
