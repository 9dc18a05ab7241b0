"""`opq-box`: the command line for people who set up or maintain a box."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opq_twisted.archive.name import parse_version
from opq_twisted.cli.box import commands
from opq_twisted.cli.parser import Command, Parser, add_command
from opq_twisted.cli.program import run
from opq_twisted.common.errors import InvalidName

_URL, _URL_VARIABLE = "http://127.0.0.1:8080", "OPQ_BOX_URL"

_CONFIG = Path("/etc/opq/opqbox_config.json")
_STATE_DIR = Path("/var/lib/opq/updater")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, and return the exit code."""
    return run("opq-box", make_parser().parse_args(arguments))


def make_parser() -> Parser:
    """Define the command line."""
    parser = Parser(
        prog="opq-box",
        description="Set up or maintain an OPQ box.",
        epilog="The exit code is 0 for success, 1 for a failure, and 2 for a wrong command line. "
        f"check ends with {commands.UPDATE_AVAILABLE} if there is an update. update ends with 0 if "
        "the box was updated or there was nothing to do, and with 1 if the update failed or the "
        f"box went back to its last good release. The environment variable {_URL_VARIABLE} is the "
        "default for --url.",
    )
    parser.add_version()
    sub_parsers = parser.add_commands()

    def add(name: str, command: Command) -> Parser:
        sub = add_command(sub_parsers, name, command)
        sub.add_argument("--json", action="store_true", help="print JSON")
        if command not in (commands.adopt, commands.config, commands.password, commands.setup):
            sub.add_argument(
                "--url",
                default=os.environ.get(_URL_VARIABLE) or _URL,
                help=f"the URL of the box's agent (default: {_URL})",
            )
        if command in (commands.check, commands.update, commands.unblock):
            sub.add_argument(
                "--password-file",
                type=Path,
                metavar="FILE",
                help="a file with the box's password (default: the command asks for it)",
            )
        return sub

    add("status", commands.status)
    add("check", commands.check)
    add("update", commands.update)
    add("log", commands.log).add_argument(
        "--follow", action="store_true", help="also print later output, until Ctrl-C"
    )
    add("history", commands.history)
    add("report", commands.report).add_argument(
        "--show", action="store_true", help="print the last report word for word"
    )
    add("forgive", commands.unblock).add_argument(
        "release", type=_release, metavar="RELEASE", help="its version, as history shows it"
    )
    sub = add("adopt", commands.adopt)
    _add_path(sub, "archive", "ARCHIVE", "an archive of build_update.py")
    _add_path(sub, "--config", "FILE", "the box's configuration", default=_CONFIG)
    _add_path(sub, "--state-dir", "DIR", "the agent's state directory", default=_STATE_DIR)
    # For install_update.sh.
    sub.add_argument("--unpacked", type=Path, help=argparse.SUPPRESS)
    sub = add("setup", commands.setup)
    sub.add_argument("--server", metavar="URL", help="the URL of the update server")
    sub.add_argument(
        "--box-id",
        type=_box_id,
        metavar="auto|N",
        help="the number of this box; auto makes one from the machine's id (default: the one in "
        "the configuration, or auto if there is none)",
    )
    sub.add_argument("--name", metavar="TEXT", help="a name of this box for people")
    sub.add_argument(
        "--install",
        choices=("click", "automatic"),
        help="whether updates wait for a click on Update Box",
    )
    sub.add_argument("--channel", metavar="NAME", help="the channel of signed releases")
    sub.add_argument(
        "--services",
        nargs="*",
        metavar="UNIT",
        help="the units that must be active with a new release",
    )
    _add_path(sub, "--config", "FILE", "the box's configuration", default=_CONFIG)
    sub = add("config", commands.config)
    _add_path(sub, "file", "FILE", "the configuration", nargs="?", default=_CONFIG)
    _add_path(
        add("password", commands.password), "file", "FILE", "the file for the hash of the password"
    )
    return parser


def _add_path(
    parser: argparse.ArgumentParser, name: str, metavar: str, meaning: str, **more: Any
) -> None:
    help_text = meaning + (" (default: %(default)s)" if "default" in more else "")
    parser.add_argument(name, type=Path, metavar=metavar, help=help_text, **more)


def _release(text: str) -> int:
    try:
        return parse_version(text)
    except InvalidName as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _box_id(text: str) -> int:
    """Read a number, or `auto` as 0."""
    if text == "auto":
        return 0
    # Larger numbers lose digits in other programs that read JSON (RFC 8259, section 6).
    if not re.fullmatch(r"[0-9]{1,16}", text) or not 0 < int(text) < 2**53:
        raise argparse.ArgumentTypeError(
            f"it must be auto, or a whole number from 1 to {2**53 - 1}, not {text[:40]!r}"
        )
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
