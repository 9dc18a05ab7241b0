"""`opq-release`: the command line of the holders of the release keys."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from opq_twisted.cli.program import Command, add_command, run
from opq_twisted.cli.release.prompts import TIMESTAMP_VARIABLE, VARIABLE
from opq_twisted.cli.release.releases import (
    drop,
    prune_archives,
    publish_archive,
    resign,
    status,
    withdraw_release,
)
from opq_twisted.cli.release.roots import encrypt, init, renew_root, rotate
from opq_twisted.signing.root_keys import ROLES
from opq_twisted.trust.offer import STABLE

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


def make_parser() -> argparse.ArgumentParser:
    """Define the command line."""
    parser = argparse.ArgumentParser(
        prog="opq-release",
        description="Sign what OPQ boxes install.",
        epilog=f"Passphrases come from --passphrase-file, from {VARIABLE} (and "
        f"{TIMESTAMP_VARIABLE}) in the environment, or from the terminal.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, command: Command) -> argparse.ArgumentParser:
        sub = add_command(commands, name, command)
        if command is not status:
            sub.add_argument(
                "--passphrase-file", type=Path, metavar="FILE", help="the file with the passphrase"
            )
        if command is encrypt:
            return sub
        sub.add_argument(
            "--updates-dir",
            type=Path,
            default=Path("/var/opq/box-updates"),
            metavar="DIR",
            help="the updates directory, or a copy of it (default: %(default)s)",
        )
        if command is not status:
            sub.add_argument(
                "--keys-dir",
                type=Path,
                default=Path("opq-keys"),
                metavar="DIR",
                help="the folder with the keys (default: ./%(default)s)",
            )
        return sub

    first = add("init", init)
    first.add_argument(
        "--root-keys", type=int, default=3, metavar="N", help="number of root keys (default: 3)"
    )
    first.add_argument(
        "--root-threshold",
        type=int,
        default=2,
        metavar="N",
        help="how many of them have to sign a root (default: 2)",
    )
    offer = add("publish", publish_archive)
    offer.add_argument(
        "archive", type=Path, metavar="ARCHIVE", help="the archive that build_update.py made"
    )
    offer.add_argument("--channel", default=STABLE, help="(default: %(default)s)")
    offer.add_argument(
        "--rollout", type=int, metavar="PERCENT", help="offer it only to this share of the boxes"
    )
    offer.add_argument(
        "--critical", action="store_true", help="for every box at once, without a rollout"
    )
    offer.add_argument(
        "--allow-downgrade",
        action="store_true",
        help="boxes with a newer release go back to this one",
    )
    offer.add_argument(
        "--notes", type=Path, metavar="FILE", help="the release notes, which boxes show"
    )
    back = add("withdraw", withdraw_release)
    back.add_argument("--channel", default=STABLE, help="(default: %(default)s)")
    back.add_argument(
        "--to",
        type=int,
        metavar="VERSION",
        help="the earlier release (default: the last one that was for all boxes)",
    )
    add("prune", prune_archives).add_argument(
        "--keep",
        type=int,
        default=5,
        metavar="N",
        help="keep the newest N archives, and those that a channel needs (default: 5)",
    )
    add("resign", resign)
    add("drop", drop).add_argument(
        "channel", nargs="+", metavar="CHANNEL", help="the channel to remove"
    )
    renew = add("renew-root", renew_root)
    turn = add("rotate", rotate)
    turn.add_argument(
        "role", nargs="*", type=_role, metavar="ROLE", help="root, targets, snapshot, timestamp"
    )
    turn.add_argument(
        "--replace",
        metavar="KEYID",
        help="the root key to replace: the beginning of its id, or its file",
    )
    for sub in (first, turn):
        sub.add_argument(
            "--public-key",
            action="append",
            type=_public_key,
            default=[],
            metavar="ROLE=FILE",
            help="a key that was made elsewhere (PEM)",
        )
        sub.add_argument(
            "--timestamp-passphrase-file",
            type=Path,
            metavar="FILE",
            help="the file with the passphrase of the timestamp key, if it differs",
        )
    for sub in (first, renew, turn):
        sub.add_argument(
            "--append", type=Path, metavar="DRAFT", help="sign a draft from another holder"
        )
    again = add("encrypt", encrypt)
    again.add_argument("key", nargs="+", type=Path, metavar="KEY", help="the file of a private key")
    again.add_argument(
        "--new-passphrase-file",
        type=Path,
        metavar="FILE",
        help="the file with the new passphrase (default: you are asked, or it stays the same)",
    )
    add("status", status).add_argument(
        "--json", action="store_true", help="print JSON, for programs"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
