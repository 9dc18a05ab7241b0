"""`opq-release`: for those who hold the keys to the releases."""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from attrs import asdict
from securesystemslib.signer import Key

from opq_twisted.cli.program import Command, add_command, run, say, warn
from opq_twisted.cli.release.prompts import (
    TIMESTAMP_VARIABLE,
    VARIABLE,
    of_keys,
    of_new,
    of_timestamp,
)
from opq_twisted.cli.release.root_summary import describe
from opq_twisted.common import files
from opq_twisted.common.errors import ReleaseFailed
from opq_twisted.common.progress_bar import ProgressBar
from opq_twisted.signing.key_folder import KeyFolder, Passphrase
from opq_twisted.signing.prune import describe_crowding, prune
from opq_twisted.signing.publish import Terms, publish
from opq_twisted.signing.repository import Repository
from opq_twisted.signing.root_draft import Draft
from opq_twisted.signing.root_keys import ROLES, RootSigner
from opq_twisted.signing.status import Inspection, inspect
from opq_twisted.signing.withdraw import withdraw
from opq_twisted.trust.keys import load, load_public, reencrypt
from opq_twisted.trust.offer import MAX_NOTES, STABLE, Offer

#: Exit codes of `status`.
_NEEDS_CARE, _FAILED = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; give the exit code."""
    os.umask(0o022)
    options = make_parser().parse_args(arguments)
    return run("opq-release", options, _FAILED if options.command is status else 1)


def init(options: argparse.Namespace) -> int:
    """Make the keys and the first root."""
    signer = _signer(options, makes_keys=not options.append)
    if options.append:
        return _tell(signer, _append(signer, options.append), "The root is in place.")
    public: dict[str, list[Key]] = {}
    for role, path in options.public_key:
        public.setdefault(role, []).append(load_public(path))
    draft = signer.init(
        options.root_keys, options.root_threshold, public, _of_timestamp(options, signer)
    )
    if options.root_threshold == 1:
        say(
            "One key of root is enough to sign the next root: whoever gets it can take over every "
            "box, and if the last one is lost each box has to be visited."
        )
    folder, updates = signer.key_folder.folder, signer.repository.updates
    return _tell(
        signer,
        draft,
        f"The keys are in {folder}. Take the root keys offline, each to another place; give the "
        f"timestamp key to the server (--timestamp-key), and keep a copy of the others. Boxes get "
        f"{updates}/tuf/1.root.json as /etc/opq/root.json: build_update.py --trusted-root puts it "
        "into an update.",
    )


def publish_archive(options: argparse.Namespace) -> int:
    """Offer an archive to the boxes of a channel."""
    terms = Terms(
        options.channel,
        options.rollout,
        options.critical,
        options.allow_downgrade,
        None if options.notes is None else _read_notes(options.notes),
    )
    signer = _signer(options)
    try:
        size = options.archive.stat().st_size
    except OSError as error:
        raise ReleaseFailed(f"{options.archive} cannot be read: {error.strerror}.") from None
    with ProgressBar(size) as progress:
        offer = publish(signer, options.archive, terms, progress)
    part = "all boxes" if offer.rollout is None else f"{offer.rollout.percent} % of the boxes"
    say(f"Release {offer.version} is signed for {part} in the channel {terms.channel}.")
    for sentence in _describe_terms(offer):
        say(sentence)
    say("Boxes see it once the server has signed a timestamp for it, which takes it a moment.")
    crowding = describe_crowding(signer.repository)
    if crowding is not None:
        say(crowding)
    return 0


def _describe_terms(offer: Offer) -> Iterator[str]:
    """Say what the terms of a release mean for boxes."""
    if offer.critical:
        yield "It is critical: boxes that install by themselves do not wait for their turn."
    if offer.allow_downgrade:
        yield "Boxes that have a newer release go back to it."
    if not offer.is_for_all:
        older = "keep the release that they have"
        if offer.before is not None:
            older = f"get release {offer.before.version} until then"
        yield f"Boxes whose turn has not come {older}."
    if offer.is_held_back:
        yield (
            "No page shows it, but a click on Update Box may still install it, and boxes without a "
            "trusted root know no rollouts: opq-release withdraw takes it back."
        )


def withdraw_release(options: argparse.Namespace) -> int:
    """Take a release back: offer an earlier one of its channel again."""
    done = withdraw(_signer(options), options.channel, options.to)
    say(
        f"Release {done.withdrawn.version} is withdrawn: the channel {options.channel} offers "
        f"{done.offered.version} to all boxes. Boxes that have the withdrawn one keep it."
    )
    _tell_unused(done.unused)
    return 0


def _tell_unused(archive: str | None) -> None:
    if archive is not None:
        say(
            "Boxes without a trusted root install the newest archive of the directory: so that "
            f"they do not get this one, move {archive} out of it, here and on the server."
        )


def prune_archives(options: argparse.Namespace) -> int:
    """Take old archives out of the targets, which boxes read at each release."""
    pruned = prune(_signer(options), options.keep)
    if not pruned.removed:
        say("No archive can be taken out, and nothing was changed.")
        return 0
    say("These archives are signed no more:")
    for name in pruned.removed:
        say(f"  {name}")
    if pruned.still_there:
        say(
            f"{len(pruned.still_there)} of them are still in {options.updates_dir}. No box with a "
            "trusted root is offered them: delete them there, on the server, and on its mirrors."
        )
    return 0


def _read_notes(path: Path) -> str:
    try:
        return files.read(path, 4 * MAX_NOTES).decode().strip()
    except OSError as error:
        raise ReleaseFailed(f"The notes {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ReleaseFailed(
            f"{path} is not UTF-8 text of at most {MAX_NOTES} characters."
        ) from None


def resign(options: argparse.Namespace) -> int:
    """Sign targets and snapshot anew."""
    _signer(options).resign()
    say("Targets and snapshot are signed anew.")
    return 0


def drop(options: argparse.Namespace) -> int:
    """Offer nothing in some channels any more."""
    archives = _signer(options).drop(list(dict.fromkeys(options.channel)))
    for channel in dict.fromkeys(options.channel):
        say(f"The channel {channel} is gone: its boxes keep the release that they have.")
    for archive in archives:
        _tell_unused(archive)
    return 0


def renew_root(options: argparse.Namespace) -> int:
    """Make the next root with the same keys."""
    signer = _signer(options)
    draft = _append(signer, options.append) if options.append else signer.renew_root()
    return _tell(signer, draft, "The next root is in place.")


def rotate(options: argparse.Namespace) -> int:
    """Give roles other keys."""
    signer = _signer(options, makes_keys=not options.append)
    if options.append:
        draft = _append(signer, options.append)
    elif not options.role:
        raise ReleaseFailed(f"Say which role is to have another key: {', '.join(ROLES)}.")
    else:
        public = {role: load_public(path) for role, path in options.public_key}
        if len(public) < len(options.public_key):
            raise ReleaseFailed("Each role gets one other key: give one --public-key for it.")
        draft = signer.rotate(
            list(dict.fromkeys(options.role)),
            public,
            options.replace and _key_id(options.replace),
            _of_timestamp(options, signer),
        )
    done = "The next root is in place; keys here that it no longer names are moved to retired/."
    if "timestamp" in options.role:
        done += " Give the server the new timestamp key, and restart it: boxes wait for that."
    return _tell(signer, draft, done)


def encrypt(options: argparse.Namespace) -> int:
    """Encrypt key files anew, with another passphrase or the same."""
    passphrase = of_keys(options.passphrase_file, False)
    new = of_new(options.new_passphrase_file, passphrase)
    # All of them are opened before one is written.
    for path in options.key:
        load(path, passphrase())
    for path in options.key:
        reencrypt(path, passphrase(), new())
        say(f"{path} is encrypted anew. Do the same with its copies, or replace them by this file.")
    return 0


def status(options: argparse.Namespace) -> int:
    """Say how all of it is."""
    found = inspect(Repository(options.updates_dir), datetime.now(UTC))
    if options.json:
        say(json.dumps(asdict(found), indent=2))
    else:
        _show(found)
    return _NEEDS_CARE if found.problems else 0


def _show(found: Inspection) -> None:
    for role in found.roles:
        version = "none" if role.version is None else str(role.version)
        left = "" if role.days_left is None else f"{role.days_left:.0f} days left"
        if role.days_left is not None and role.days_left <= 0:
            left = "expired"
        keys = f"{role.threshold} of {len(role.keys)} keys ({', '.join(role.keys)})"
        say(f"{role.role:10} {version:>10}  {left:15} {keys}")
    for channel in found.channels:
        notes = [f"release {channel.version}"]
        if channel.rollout is not None:
            notes.append(f"{channel.rollout} % of the boxes")
        if channel.before is not None:
            notes.append(f"until their turn {channel.before}")
        notes += ["critical"] * channel.critical + ["may go back"] * channel.allow_downgrade
        say(f"channel {channel.channel}: {', '.join(notes)}")
    for problem in found.problems:
        say(f"! {problem}")


def _append(signer: RootSigner, path: Path) -> Draft | None:
    draft = Draft.load(path)
    _show_draft(signer, draft)
    return signer.append(draft)


def _tell(signer: RootSigner, draft: Draft | None, done: str) -> int:
    if draft is None:
        say(done)
        return 0
    if draft.missing:
        say(
            f"Root {draft.version} lacks {draft.missing} more signature(s). Take {draft.path} to "
            "the next holder of a root key, who runs this command with --append FILE."
        )
    else:
        say(
            f"Root {draft.version} has all its signatures. Take {draft.path} to where the updates "
            "directory is, and the keys of targets and snapshot, and run this command there with "
            "--append FILE."
        )
    _show_draft(signer, draft)
    return 0


def _show_draft(signer: RootSigner, draft: Draft) -> None:
    """Let a holder see what he signs: it is all that boxes will believe."""
    known, before = signer.key_folder.trusted_root(), draft.previous
    if known is not None and known.signed.version < draft.version:
        # Rather than with a root that the draft itself brings along.
        before = known
    other = None if before is None else before.signed
    for line in describe(draft.root.signed, other, datetime.now(UTC)):
        say(line)
    if before is not None and before is not known:
        say(f"Root {before.signed.version} came with the draft: compare its keys with the holders.")
    say(f"Signed by {', '.join(draft.signed_by) or 'nobody'}.")


def _signer(options: argparse.Namespace, makes_keys: bool = False) -> RootSigner:
    passphrase = of_keys(options.passphrase_file, makes_keys)
    key_folder = KeyFolder(
        options.keys_dir, passphrase, lambda advice: warn(f"opq-release: {advice}")
    )
    return RootSigner(Repository(options.updates_dir), key_folder, lambda: datetime.now(UTC))


def _of_timestamp(options: argparse.Namespace, signer: RootSigner) -> Passphrase:
    return of_timestamp(
        options.timestamp_passphrase_file, options.passphrase_file, signer.key_folder.passphrase
    )


def _key_id(text: str) -> str:
    """Give the beginning of a key's id, which may be given as the name of its file."""
    path = Path(text)
    named = re.fullmatch(r"[a-z]+-([0-9a-f]{12})\.pem", path.name)
    if named:
        return named[1]
    return load_public(path).keyid if path.exists() else text


def _role(text: str) -> str:
    # Not by `choices`, which would not let a draft be signed without naming its roles.
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
                "--passphrase-file", type=Path, metavar="FILE", help="holds the passphrase"
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
        "--root-keys", type=int, default=3, metavar="N", help="keys of root (default: 3)"
    )
    first.add_argument(
        "--root-threshold",
        type=int,
        default=2,
        metavar="N",
        help="how many of them have to sign a root (default: 2)",
    )
    offer = add("publish", publish_archive)
    offer.add_argument("archive", type=Path, metavar="ARCHIVE", help="what build_update.py made")
    offer.add_argument("--channel", default=STABLE, help="(default: %(default)s)")
    offer.add_argument(
        "--rollout", type=int, metavar="PERCENT", help="offer it to a part of the boxes only"
    )
    offer.add_argument(
        "--critical", action="store_true", help="for every box at once, whatever the rollout"
    )
    offer.add_argument(
        "--allow-downgrade", action="store_true", help="boxes may go back to this release"
    )
    offer.add_argument(
        "--notes", type=Path, metavar="FILE", help="what is new in it: boxes show that text"
    )
    back = add("withdraw", withdraw_release)
    back.add_argument("--channel", default=STABLE, help="(default: %(default)s)")
    back.add_argument(
        "--to",
        type=int,
        metavar="VERSION",
        help="the earlier release; without it the one before, that was for all boxes",
    )
    add("prune", prune_archives).add_argument(
        "--keep",
        type=int,
        default=5,
        metavar="N",
        help="the newest N archives stay, beside those to which a channel leads (default: 5)",
    )
    add("resign", resign)
    add("drop", drop).add_argument(
        "channel", nargs="+", metavar="CHANNEL", help="the channel that ends"
    )
    renew = add("renew-root", renew_root)
    turn = add("rotate", rotate)
    turn.add_argument(
        "role", nargs="*", type=_role, metavar="ROLE", help="root, targets, snapshot, timestamp"
    )
    turn.add_argument(
        "--replace",
        metavar="KEYID",
        help="the key of root that goes: the beginning of its id, or its file",
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
            help="holds the passphrase of the timestamp key, where it is another one",
        )
    for sub in (first, renew, turn):
        sub.add_argument(
            "--append", type=Path, metavar="DRAFT", help="sign what another holder has begun"
        )
    again = add("encrypt", encrypt)
    again.add_argument("key", nargs="+", type=Path, metavar="KEY", help="the file of a private key")
    again.add_argument(
        "--new-passphrase-file",
        type=Path,
        metavar="FILE",
        help="holds the passphrase from now on (default: you are asked, or it stays the same)",
    )
    add("status", status).add_argument("--json", action="store_true", help="for programs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
