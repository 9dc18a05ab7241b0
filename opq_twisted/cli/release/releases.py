"""The commands of `opq-release` for releases, channels and archives."""

import argparse
import json
from datetime import UTC, datetime

from attrs import asdict
from tuf.api.metadata import Timestamp

from opq_twisted.cli.program import say, say_line
from opq_twisted.cli.release.prompts import confirm, open_keys
from opq_twisted.common.wording import moment
from opq_twisted.signing.prune import prune
from opq_twisted.signing.repository import Repository
from opq_twisted.signing.signer import RepositorySigner
from opq_twisted.signing.status import Inspection, inspect
from opq_twisted.signing.withdraw import withdraw

#: What to do after a change.
NOT_SENT = (
    "Boxes see it when the server has announced it. To a server on another machine, opq-release "
    "push sends it."
)

#: The exit code of `status` if something needs attention.
_NEEDS_ATTENTION = 1


def withdraw_release(options: argparse.Namespace) -> int:
    """Withdraw a release: its channel offers an earlier one again."""
    done = withdraw(make_signer(options), options.channel, options.to)
    say(
        f"Release {done.withdrawn.version} is withdrawn: the channel {options.channel} offers "
        f"{done.offered.version} to all boxes. Boxes that have the withdrawn one keep it."
    )
    _warn_of_archive(done.unused)
    say(NOT_SENT)
    return 0


def prune_archives(options: argparse.Namespace) -> int:
    """Remove old archives, and their entries in the targets, which boxes read at each release."""
    pruned = prune(make_signer(options), options.keep)
    if not pruned.removed:
        say("No archive can be removed, and nothing was changed.")
        return 0
    say("These archives are no longer signed, and deleted:")
    for name in pruned.removed:
        say(f"  {name}")
    if pruned.still_there:
        say(
            f"{len(pruned.still_there)} of them are still in {options.updates_dir}, because boxes "
            "may get them until the server has announced this change."
        )
    say("The next opq-release push removes them from the server, but not from its mirrors.")
    return 0


def resign(options: argparse.Namespace) -> int:
    """Sign targets and snapshot again, for a year."""
    make_signer(options).resign()
    say("Targets and snapshot are signed again, for a year.")
    say(NOT_SENT)
    return 0


def drop(options: argparse.Namespace) -> int:
    """Remove channels: their boxes keep the release that they have."""
    channels = list(dict.fromkeys(options.channel))
    confirm(
        options,
        f"Boxes of {' and '.join(channels)} keep the release that they have, and get no other one "
        "until something is published there again.",
    )
    archives = make_signer(options).drop(channels)
    for channel in channels:
        say(f"The channel {channel} is removed: its boxes keep the release that they have.")
    for archive in archives:
        _warn_of_archive(archive)
    say(NOT_SENT)
    return 0


def _warn_of_archive(archive: str | None) -> None:
    if archive is not None:
        say(
            "Boxes without a trusted root install the newest archive of the directory. To keep "
            f"them from installing {archive}, move it out of the directory, here and on the server."
        )


def status(options: argparse.Namespace) -> int:
    """Show the state of the signed metadata."""
    found = inspect(Repository(options.updates_dir), datetime.now(UTC))
    if options.json:
        say_line(json.dumps(asdict(found), indent=2))
    else:
        _show(found)
    return _NEEDS_ATTENTION if found.problems else 0


def _show(found: Inspection) -> None:
    for role in found.roles:
        version = "none" if role.version is None else str(role.version)
        left = "" if role.days_left is None else f"{role.days_left:.0f} days left"
        if role.days_left is not None and role.days_left <= 0:
            left = "expired"
        if role.version is None and role.role == Timestamp.type:
            left = "by the server"
        keys = f"{role.threshold} of {len(role.keys)} keys ({', '.join(role.keys)})"
        say(f"{role.role:10} {version:>10}  {left:15} {keys}", indent=12)
    for channel in found.channels:
        notes = [f"release {channel.version}"]
        if channel.rollout is not None:
            notes.append(f"{channel.rollout} % of the boxes")
        if channel.before is not None:
            notes.append(f"until their turn {channel.before}")
        notes += ["critical"] * channel.critical + ["may go back"] * channel.allow_downgrade
        notes.append(f"built {moment(channel.version)}")
        say(f"channel {channel.channel}: {', '.join(notes)}")
    for problem in found.problems:
        say(f"! {problem}")


def make_signer(options: argparse.Namespace) -> RepositorySigner:
    """Make the signer for the directory and the keys that the command line names."""
    repository = Repository(options.updates_dir)
    return RepositorySigner(repository, open_keys(options), lambda: datetime.now(UTC))
