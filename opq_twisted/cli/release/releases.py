"""The commands of `opq-release` for releases, channels and archives."""

import argparse
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from attrs import asdict

from opq_twisted.cli.program import say
from opq_twisted.cli.release.prompts import open_keys
from opq_twisted.common import files
from opq_twisted.common.errors import ReleaseFailed
from opq_twisted.common.progress_bar import ProgressBar
from opq_twisted.signing.prune import describe_crowding, prune
from opq_twisted.signing.publish import Terms, publish
from opq_twisted.signing.repository import Repository
from opq_twisted.signing.signer import RepositorySigner
from opq_twisted.signing.status import Inspection, inspect
from opq_twisted.signing.withdraw import withdraw
from opq_twisted.trust.offer import MAX_NOTES, Offer

#: The exit code of `status` if something needs attention.
_NEEDS_ATTENTION = 1


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
    say("Boxes see it as soon as the server has signed a timestamp for it.")
    crowding = describe_crowding(signer.repository)
    if crowding is not None:
        say(crowding)
    return 0


def _describe_terms(offer: Offer) -> Iterator[str]:
    """Explain the terms of a release."""
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
            "trusted root ignore rollouts: withdraw it with opq-release withdraw."
        )


def _read_notes(path: Path) -> str:
    try:
        return files.read(path, 4 * MAX_NOTES).decode().strip()
    except OSError as error:
        raise ReleaseFailed(f"The notes {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ReleaseFailed(
            f"{path} is not UTF-8 text of at most {MAX_NOTES} characters."
        ) from None


def withdraw_release(options: argparse.Namespace) -> int:
    """Withdraw a release: its channel offers an earlier one again."""
    done = withdraw(_signer(options), options.channel, options.to)
    say(
        f"Release {done.withdrawn.version} is withdrawn: the channel {options.channel} offers "
        f"{done.offered.version} to all boxes. Boxes that have the withdrawn one keep it."
    )
    _warn_of_archive(done.unused)
    return 0


def prune_archives(options: argparse.Namespace) -> int:
    """Remove old archives from the targets, which boxes read at each release."""
    pruned = prune(_signer(options), options.keep)
    if not pruned.removed:
        say("No archive can be removed, and nothing was changed.")
        return 0
    say("These archives are no longer signed:")
    for name in pruned.removed:
        say(f"  {name}")
    if pruned.still_there:
        say(
            f"{len(pruned.still_there)} of them are still in {options.updates_dir}. No box with a "
            "trusted root is offered them: delete them there, on the server, and on its mirrors."
        )
    return 0


def resign(options: argparse.Namespace) -> int:
    """Sign targets and snapshot again, for a year."""
    _signer(options).resign()
    say("Targets and snapshot are signed again, for a year.")
    return 0


def drop(options: argparse.Namespace) -> int:
    """Remove channels: their boxes keep the release that they have."""
    archives = _signer(options).drop(list(dict.fromkeys(options.channel)))
    for channel in dict.fromkeys(options.channel):
        say(f"The channel {channel} is removed: its boxes keep the release that they have.")
    for archive in archives:
        _warn_of_archive(archive)
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
        say(json.dumps(asdict(found), indent=2))
    else:
        _show(found)
    return _NEEDS_ATTENTION if found.problems else 0


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


def _signer(options: argparse.Namespace) -> RepositorySigner:
    repository = Repository(options.updates_dir)
    return RepositorySigner(repository, open_keys(options), lambda: datetime.now(UTC))
