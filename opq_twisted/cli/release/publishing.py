"""The commands of `opq-release` that offer an archive, and send it to the server."""

import argparse
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from opq_twisted.archive.name import UpdateName
from opq_twisted.cli.program import say
from opq_twisted.cli.release.prompts import confirm
from opq_twisted.cli.release.releases import NOT_SENT, make_signer
from opq_twisted.common import files, wording
from opq_twisted.common.errors import InvalidName, ReleaseFailed, Untrusted
from opq_twisted.common.progress_bar import ProgressBar
from opq_twisted.signing.dry_run import is_channel_target
from opq_twisted.signing.fetch_size import describe_fetch_sizes
from opq_twisted.signing.older_agents import describe_older_agents
from opq_twisted.signing.prune import describe_crowding
from opq_twisted.signing.publish import Publication, Terms, publish
from opq_twisted.signing.push import TIMEOUT, Push
from opq_twisted.signing.repository import Repository
from opq_twisted.signing.rsync import connected
from opq_twisted.trust.offer import MAX_NOTES, STABLE, Offer, read_offer
from opq_twisted.trust.repository_reader import MetadataSet


def publish_archive(options: argparse.Namespace) -> int:
    """Offer an archive to the boxes of a channel."""
    terms = _confirmed_terms(options)
    _publish(options, terms)
    if not options.dry_run:
        say(NOT_SENT)
    return 0


def push(options: argparse.Namespace) -> int:
    """Publish an archive if one is given, send all to the server, and wait until boxes see it."""
    terms = None if options.archive is None else _confirmed_terms(options)
    if terms is None:
        _require_no_terms(options)
    with connected(options.destination) as destination:
        upload = Push(
            Repository(options.updates_dir),
            destination,
            lambda: datetime.now(UTC),
            time.monotonic,
            time.sleep,
        )
        if terms is not None:
            # First, so that nothing is signed if the server cannot be reached, or has more.
            upload.check(upload.current())
            _publish(options, terms)
        current = upload.send()
        say(
            f"Everything is sent. Waiting until the server announces snapshot "
            f"{current.snapshot.version}, at most {wording.duration(TIMEOUT)} ..."
        )
        upload.wait(current)
        say(f"The server has announced snapshot {current.snapshot.version}:")
        for sentence in _describe_channels(current):
            say(f"  {sentence}")
        for name in upload.remove_old(current):
            say(f"{name} is removed from the server.")
    return 0


def _describe_channels(current: MetadataSet) -> Iterator[str]:
    channels = list(filter(is_channel_target, current.targets.signed.targets.values()))
    if not channels:
        yield "no channel has a release"
    for target in channels:
        try:
            offer = read_offer(target)
        except Untrusted as error:
            yield str(error)
        else:
            yield f"channel {target.path}: release {offer.version} for {_part(offer)}"


def _require_no_terms(options: argparse.Namespace) -> None:
    terms = {
        "--channel": options.channel is not None,
        "--rollout": options.rollout is not None,
        "--critical": options.critical,
        "--allow-downgrade": options.allow_downgrade,
        "--notes": options.notes is not None,
    }
    for name, is_given in terms.items():
        if is_given:
            raise ReleaseFailed(f"{name} is for a release: name its archive after the destination.")


def _confirmed_terms(options: argparse.Namespace) -> Terms:
    """Read the terms from the command line, and confirm them if they are unusual."""
    terms = Terms(
        STABLE if options.channel is None else options.channel,
        options.rollout,
        options.critical,
        options.allow_downgrade,
        None if options.notes is None else _read_notes(options.notes),
    )
    try:
        version = UpdateName.parse(options.archive.name).version
    except InvalidName as error:
        raise ReleaseFailed(str(error)) from None
    if not options.dry_run:
        confirm(options, *_consequences(version, terms))
    return terms


def _consequences(version: int, terms: Terms) -> Iterator[str]:
    release = f"release {version}, built {wording.utc(version)}"
    if terms.critical:
        yield (
            f"--critical: all boxes of {terms.channel} that install automatically install "
            f"{release}, as soon as they hear of it, without a rollout."
        )
    if terms.allow_downgrade:
        yield (
            f"--allow-downgrade: boxes of {terms.channel} that have a newer release go back to "
            f"{release}."
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


def _publish(options: argparse.Namespace, terms: Terms) -> None:
    signer = make_signer(options)
    try:
        size = options.archive.stat().st_size
    except OSError as error:
        raise ReleaseFailed(f"{options.archive} cannot be read: {error.strerror}.") from None
    with ProgressBar(size) as progress:
        done = publish(signer, options.archive, terms, progress, options.dry_run)
    offer = done.offer
    if options.dry_run:
        for line in _describe(done, terms.channel):
            say(line)
    else:
        say(f"Release {offer.version} is signed for {_part(offer)} in the channel {terms.channel}.")
    for sentence in _describe_terms(offer):
        say(sentence)
    for sentence in describe_fetch_sizes(done, options.archive, options.updates_dir):
        say(sentence)
    warning = describe_older_agents(done, options.archive, options.updates_dir)
    if warning is not None:
        say(warning)
    crowding = describe_crowding(signer.repository)
    if crowding is not None:
        say(crowding)


def _part(offer: Offer) -> str:
    return "all boxes" if offer.rollout is None else f"{offer.rollout.percent} % of the boxes"


def _describe(done: Publication, channel: str) -> Iterator[str]:
    """Describe what would be signed, line by line."""
    offer, before = done.offer, done.before
    yield "Nothing was changed. This would be signed:"
    yield f"  release  {offer.version}, built {wording.utc(offer.version)}"
    yield f"  archive  {UpdateName(offer.version)}, {offer.size} bytes"
    yield f"  SHA-256  {offer.hashes['sha256']}"
    now = "which does not exist yet"
    if before is not None:
        now = f"which offers release {before.version} to {_part(before)} now"
    yield f"  channel  {channel}, {now}"
    yield f"  boxes    {_part(offer)}"
    if offer.notes:
        first, *others = offer.notes.splitlines()
        yield f"  notes    {first}"
        yield from (f"           {line}" for line in others)
    for name in done.removed:
        yield f"  removed  {name}, which is gone"


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
