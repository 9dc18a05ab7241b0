"""`opq-release`: the command line of the holders of the release keys."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opq_twisted.cli.parser import Command, Parser, add_command
from opq_twisted.cli.program import run
from opq_twisted.cli.release.prompts import TIMESTAMP_VARIABLE, VARIABLE
from opq_twisted.cli.release.publishing import publish_archive, push
from opq_twisted.cli.release.releases import (
    drop,
    prune_archives,
    resign,
    status,
    withdraw_release,
)
from opq_twisted.cli.release.roots import encrypt, init, keygen, renew_root, rotate, show
from opq_twisted.signing.root_keys import ROLES
from opq_twisted.trust.offer import STABLE

#: Names the updates directory for all commands.
_UPDATES_VARIABLE = "OPQ_UPDATES_DIR"
_UPDATES = "/var/opq/box-updates"

#: The exit code of `status` if it fails; 1 says that something needs attention.
_FAILED = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the command line names, and return the exit code."""
    os.umask(0o022)
    options = make_parser().parse_args(arguments)
    return run("opq-release", options, _FAILED if options.command is status else 1)


def _role(text: str) -> str:
    # Without `choices`, because `nargs="*"` with `choices` refuses an empty list.
    if text not in ROLES:
        raise argparse.ArgumentTypeError(f"{text} is no role: give {', '.join(ROLES)}")
    return text


def _public_key(text: str) -> tuple[str, Path]:
    role, _, path = text.partition("=")
    if role not in ROLES or not path:
        raise argparse.ArgumentTypeError(f"give ROLE=FILE, ROLE one of {', '.join(ROLES)}")
    return role, Path(path)


def _path(sub: argparse.ArgumentParser, name: str, metavar: str, text: str, **more: Any) -> None:
    sub.add_argument(name, type=Path, metavar=metavar, help=text, **more)


def _number(
    sub: argparse.ArgumentParser, name: str, metavar: str, text: str, default: int | None = None
) -> None:
    sub.add_argument(name, type=int, metavar=metavar, help=text, default=default)


def _add_terms(sub: argparse.ArgumentParser) -> None:
    """Define how a release is offered."""
    sub.add_argument("--channel", help=f"(default: {STABLE})")
    _number(sub, "--rollout", "PERCENT", "offer it only to this share of the boxes")
    text = "for every box at once, without a rollout"
    sub.add_argument("--critical", action="store_true", help=text)
    text = "boxes with a newer release go back to this one"
    sub.add_argument("--allow-downgrade", action="store_true", help=text)
    _path(sub, "--notes", "FILE", "the release notes, which boxes show")
    _add_yes(sub)


def _add_yes(sub: argparse.ArgumentParser) -> None:
    text = "do not ask whether an unusual change is meant"
    sub.add_argument("--yes", action="store_true", help=text)


def make_parser() -> Parser:
    """Define the command line."""
    parser = Parser(
        prog="opq-release",
        description="Sign what OPQ boxes install.",
        epilog=f"Passphrases come from --passphrase-file, from {VARIABLE} (and "
        f"{TIMESTAMP_VARIABLE}) in the environment, or from the terminal. The default of "
        f"--updates-dir is {_UPDATES_VARIABLE} in the environment, or {_UPDATES}.",
    )
    parser.add_version()
    commands = parser.add_commands()

    def add(name: str, command: Command) -> Parser:
        sub = add_command(commands, name, command)
        if command not in (status, show):
            _path(sub, "--passphrase-file", "FILE", "the file with the passphrase")
        if command not in (encrypt, keygen, show):
            text = f"the updates directory, or a copy of it (default: {_UPDATES_VARIABLE})"
            updates = Path(os.environ.get(_UPDATES_VARIABLE) or _UPDATES)
            _path(sub, "--updates-dir", "DIR", text, default=updates)
        if command not in (encrypt, status):
            text = "the folder with the keys (default: ./%(default)s)"
            _path(sub, "--keys-dir", "DIR", text, default=Path("opq-keys"))
        return sub

    first = add("init", init)
    _number(first, "--root-keys", "N", "number of root keys (default: 3)", 3)
    text = "how many of them have to sign a root (default: 2)"
    _number(first, "--root-threshold", "N", text, 2)

    offer = add("publish", publish_archive)
    _path(offer, "archive", "ARCHIVE", "the archive that build_update.py made")
    _add_terms(offer)
    text = "check everything, print the release that would be signed, and change nothing"
    offer.add_argument("--dry-run", action="store_true", help=text)

    upload = add("push", push)
    text = "SERVER:/DIR, as for rsync, or a directory of this machine"
    upload.add_argument("destination", metavar="DESTINATION", help=text)
    text = "publish this archive first, with the options of publish"
    _path(upload, "archive", "ARCHIVE", text, nargs="?")
    upload.set_defaults(dry_run=False)
    _add_terms(upload)

    back = add("withdraw", withdraw_release)
    back.add_argument("--channel", default=STABLE, help="(default: %(default)s)")
    text = "the earlier release (default: the last one that was for all boxes)"
    _number(back, "--to", "VERSION", text)

    text = "keep the newest N archives, and what channels and withdraw need (default: 5)"
    _number(add("prune", prune_archives), "--keep", "N", text, 5)
    add("resign", resign)
    drops = add("drop", drop)
    drops.add_argument("channel", nargs="+", metavar="CHANNEL", help="the channel to remove")
    _add_yes(drops)

    renew = add("renew-root", renew_root)
    turn = add("rotate", rotate)
    text = "root, targets, snapshot, timestamp"
    turn.add_argument("role", nargs="*", type=_role, metavar="ROLE", help=text)
    text = "the root key to replace: the beginning of its id, or its file"
    turn.add_argument("--replace", metavar="KEYID", help=text)
    for sub in (first, turn):
        sub.add_argument(
            "--public-key",
            action="append",
            type=_public_key,
            default=[],
            metavar="ROLE=FILE",
            help="a key that was made elsewhere (PEM)",
        )
        text = "the file with the passphrase of the timestamp key, if it differs"
        _path(sub, "--timestamp-passphrase-file", "FILE", text)
    for sub in (first, renew, turn):
        _path(sub, "--append", "DRAFT", "sign a draft from another holder")

    text = f"the role of the key: {', '.join(ROLES)}"
    add("keygen", keygen).add_argument("role", type=_role, metavar="ROLE", help=text)
    text = "the draft from another holder"
    _path(add("show", show), "draft", "DRAFT", text)

    again = add("encrypt", encrypt)
    _path(again, "key", "KEY", "the file of a private key", nargs="+")
    text = "the file with the new passphrase (default: you are asked, or it stays the same)"
    _path(again, "--new-passphrase-file", "FILE", text)
    add("status", status).add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
