"""Publishes an archive as the newest release of a channel."""

import secrets
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from attrs import frozen
from tuf.api.metadata import TargetFile

from opq_twisted.archive.extract.child import validate
from opq_twisted.archive.name import UpdateName
from opq_twisted.common import wording
from opq_twisted.common.errors import ReleaseFailed, Untrusted
from opq_twisted.common.progress_bar import Progress
from opq_twisted.signing.copy_archive import (
    OpenArchive,
    check_archive,
    copy_archive,
    open_archive,
)
from opq_twisted.signing.dry_run import try_metadata_sets
from opq_twisted.signing.prune import drop_missing
from opq_twisted.signing.repository import Repository
from opq_twisted.signing.signer import RepositorySigner
from opq_twisted.trust.offer import (
    MAX_NOTES,
    Offer,
    describe_before,
    is_channel,
    read_before,
    read_offer,
)


@frozen
class Terms:
    """How a release is offered, and to which boxes."""

    channel: str
    #: Whole percent of the boxes; None for all of them.
    rollout: int | None = None
    critical: bool = False
    allow_downgrade: bool = False
    #: Release notes, which the page of each box shows.
    notes: str | None = None

    def __attrs_post_init__(self) -> None:
        """Raise `ReleaseFailed` unless a release can be offered like this."""
        if not is_channel(self.channel):
            raise ReleaseFailed(
                f"{self.channel[:40]!r} is no name for a channel: use lower-case letters, digits "
                "and hyphens, at most 32."
            )
        if self.rollout is not None and not 0 <= self.rollout <= 100:
            raise ReleaseFailed(f"A rollout is from 0 to 100 percent, not {self.rollout}.")
        if self.critical and self.rollout not in (None, 100):
            raise ReleaseFailed(
                "A critical release is for every box at once, whatever its rollout: give "
                "--critical or --rollout, and not both."
            )
        if self.notes is not None and len(self.notes) > MAX_NOTES:
            raise ReleaseFailed(
                f"The release notes have {len(self.notes)} characters: boxes show {MAX_NOTES} at "
                "most."
            )


@frozen
class Publication:
    """A release of a channel, and the change from before."""

    #: What boxes read.
    offer: Offer
    #: What the channel offered before; None if there was no such channel.
    before: Offer | None
    #: The archives that are not signed any more, because they are gone.
    removed: list[str]


def publish(
    signer: RepositorySigner,
    archive: Path,
    terms: Terms,
    progress: Progress,
    dry_run: bool = False,
) -> Publication:
    """
    Put an archive into the updates directory, and sign that it is the newest one of a channel.

    If the same archive is published again, it gets the new terms: so a rollout grows.

    :param progress: called with the number of further bytes that were read.
    :param dry_run: whether to do and check all of it, and write nothing in the updates directory.
    :raises ReleaseFailed: if boxes would refuse the release or the metadata.
    :raises KeyUnusable: if a key cannot be opened.
    :raises OSError: if the disk is full or fails; everything published before is untouched then.
    """
    with open_archive(archive) as opened:
        return _publish(signer, opened, terms, progress, dry_run)


def _publish(
    signer: RepositorySigner,
    archive: OpenArchive,
    terms: Terms,
    progress: Progress,
    dry_run: bool,
) -> Publication:
    version = archive.name.version
    if version > signer.now().timestamp():
        raise ReleaseFailed(
            f"Version {version} lies in the future ({wording.utc(version)}; this machine's clock "
            f"shows {wording.utc(signer.now().timestamp())}): boxes would wait until then. Set "
            "this clock if it is behind; otherwise build the release again with the right time."
        )
    repository = signer.repository
    with repository.locked():
        current = signer.current()
        targets = dict(current.targets.signed.targets)
        signer.require_clock(targets)
        before = _offer(targets, terms.channel)
        _require_newer(before, version, terms)
        # Before the long part, so that a missing key or a wrong passphrase is reported at once.
        signer.sign(current.root, targets, current)
        validate(archive.file, version)
        copied: AbstractContextManager[TargetFile]
        if dry_run:
            copied = nullcontext(check_archive(archive, repository.updates, progress))
        else:
            copied = copy_archive(archive, repository.updates, progress)
        with copied as target:
            previous = targets.get(terms.channel)
            _add(targets, target, terms, _custom(version, terms, before))
            _add_previous_release(targets[terms.channel], previous, repository)
            removed = drop_missing(targets, repository)
            after = signer.sign(current.root, targets, current)
            try_metadata_sets(current, after)
        if not dry_run:
            signer.place(after)
    return Publication(read_offer(targets[terms.channel]), before, removed)


def _offer(targets: Mapping[str, TargetFile], channel: str) -> Offer | None:
    target = targets.get(channel)
    try:
        return None if target is None else read_offer(target)
    except Untrusted:
        return None  # no box can follow the channel, and this release repairs it


def _require_newer(before: Offer | None, version: int, terms: Terms) -> None:
    if before is not None and version < before.version and not terms.allow_downgrade:
        raise ReleaseFailed(
            f"Release {version} is older than {before.version}, which the channel {terms.channel} "
            "offers: boxes would refuse it. Build it again, or let them go back with "
            "--allow-downgrade."
        )


def _add(
    targets: dict[str, TargetFile], archive: TargetFile, terms: Terms, custom: Mapping[str, Any]
) -> None:
    known = targets.get(archive.path)
    if known is not None and (known.length, known.hashes) != (archive.length, archive.hashes):
        raise ReleaseFailed(
            f"{archive.path} was published with other bytes, and a name must not be used twice: "
            "build the release again, with a new version."
        )
    targets[archive.path] = archive
    channel = TargetFile(archive.length, archive.hashes, terms.channel, {"custom": custom})
    targets[terms.channel] = channel


def _add_previous_release(
    channel: TargetFile, previous: TargetFile | None, repository: Repository
) -> None:
    """
    Add the last release that was for all boxes, which boxes install until their turn comes.

    It is added to a release for all boxes, too, because that may be held back or withdrawn later.

    :param previous: the channel before this release.
    """
    offer = read_offer(channel)
    if previous is None:
        return
    with suppress(Untrusted):  # no box could follow the channel before
        known = read_offer(previous)
        # A rollout that changes, or is followed by another rollout, keeps its previous release.
        is_kept = known.version == offer.version or not known.is_for_all
        before = read_before(previous) if is_kept else previous
        if before is None:
            return
        older = read_offer(before)
        if older.version < offer.version and repository.holds(older):
            channel.custom["before"] = describe_before(before)


def _custom(version: int, terms: Terms, before: Offer | None) -> dict[str, Any]:
    custom: dict[str, Any] = {"version": version, "file": str(UpdateName(version))}
    # A release that is published again keeps its salt and its notes.
    same = before if before is not None and before.version == version else None
    if terms.rollout is not None:
        # With the same salt a rollout grows: no box that had its turn loses it.
        salt = same.rollout.salt if same and same.rollout else secrets.token_hex(8)
        custom["rollout"] = {"percent": terms.rollout, "salt": salt}
    for name in ("critical", "allow_downgrade"):
        if getattr(terms, name):
            custom[name] = True
    notes = same.notes if same and terms.notes is None else terms.notes
    if notes is not None:
        custom["notes"] = notes
    return custom
