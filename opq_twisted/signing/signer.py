"""Signs new targets and snapshots with the keys in one folder."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from attrs import frozen
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets

from opq_twisted.archive.name import UpdateName
from opq_twisted.common import wording
from opq_twisted.common.errors import ReleaseFailed, Untrusted
from opq_twisted.signing.dry_run import is_channel_target, try_metadata_sets, try_roots
from opq_twisted.signing.key_folder import KeyFolder
from opq_twisted.signing.repository import Repository
from opq_twisted.trust.offer import is_channel, read_needed_before, read_offer
from opq_twisted.trust.repository_reader import Document, MetadataSet

#: Days until metadata that is signed by hand expires.
LIFETIME = 365


@frozen
class RepositorySigner:
    """
    Signs one repository with the keys in one folder.

    `tuf.repository.Repository` stores each role as soon as it is signed. Here targets and snapshot
    are signed first, then tried together on a client, and only then written.
    """

    repository: Repository
    key_folder: KeyFolder
    now: Callable[[], datetime]

    def resign(self) -> None:
        """Sign targets and snapshot again, for a year; it raises the errors of `change`."""
        self.change(lambda targets: None)

    def drop(self, channels: Sequence[str]) -> list[str]:
        """
        Remove channels; their boxes keep the release that they have.

        :returns: the archives that the channels offered, except those that another channel needs.
        :raises ReleaseFailed: if there is no such channel. It also raises the errors of `change`.
        """
        dropped: list[TargetFile] = []

        def drop(targets: dict[str, TargetFile]) -> None:
            for channel in channels:
                dropped.append(require_channel(targets, channel))
                del targets[channel]

        targets = self.change(drop).targets.signed.targets
        unused = [unused_archive(target, targets) for target in dropped]
        return list(dict.fromkeys(name for name in unused if name is not None))

    def change(self, edit: Callable[[dict[str, TargetFile]], None]) -> MetadataSet:
        """
        Change the targets, sign them and a snapshot, and publish both.

        :param edit: changes the targets, which it gets by name; if it raises, nothing is changed.
        :returns: the new metadata set.
        :raises ReleaseFailed: if a key is missing, or boxes would refuse the result.
        :raises KeyUnusable: if a key cannot be opened.
        :raises OSError: if the disk is full or fails.
        """
        with self.repository.locked():
            current = self.current()
            targets = dict(current.targets.signed.targets)
            edit(targets)
            after = self.sign(current.root, targets, current)
            try_metadata_sets(current, after)
            self.place(after)
            return after

    def current(self) -> MetadataSet:
        """
        Read the metadata set that boxes follow now, by the newest root.

        :raises ReleaseFailed: if boxes or these keys know other roots, the newest root has expired,
            there is no metadata set, or these keys have signed a later one.
        """
        root = self.roots()[-1].signed
        if root.is_expired(self.now().astimezone(UTC)):
            raise ReleaseFailed(
                f"Root {root.version} has expired, and boxes would refuse all that follows: run "
                f"opq-release renew-root first. It was good until {root.expires:%Y-%m-%d}, and "
                f"this machine's clock shows {wording.utc(self.now().timestamp())}."
            )
        current = self.repository.current(root)
        self.key_folder.require_not_behind(current.snapshot.signed)
        return current

    def place(self, metadata_set: MetadataSet) -> None:
        """
        Write a new metadata set, for the server to announce.

        :raises ReleaseFailed: if a version is taken.
        :raises OSError: if the disk is full or fails.
        """
        self.repository.place(metadata_set.targets, metadata_set.snapshot)
        # Not before: a snapshot that was not written was never seen, and may be signed again.
        self.key_folder.store_version(metadata_set.snapshot.signed)
        self.repository.remove_superseded()

    def roots(self) -> list[Metadata[Root]]:
        """Read the roots that boxes go through; raise `ReleaseFailed` if these keys know others."""
        roots = self.repository.roots()
        try_roots(roots)
        self.key_folder.verify_roots(roots)
        return roots

    def sign(
        self, root: Root, targets: Mapping[str, TargetFile], before: MetadataSet | None
    ) -> MetadataSet:
        """
        Sign targets and a snapshot with their next versions, for a year from now.

        :param root: names the keys.
        :param before: the current metadata set; None if there is none yet.
        :raises ReleaseFailed: if a key is missing, or the clock is wrong.
        :raises KeyUnusable: if a key cannot be opened.
        """
        self.require_clock(targets)
        expires, next_number = self.expires(), self.repository.next_number
        number = next_number(Targets.type, before.targets.version if before else 0)
        signed_targets = Metadata(Targets(number, expires=expires, targets=dict(targets)))
        for signer in self.key_folder.enough(root, Targets.type):
            signed_targets.sign(signer, append=True)
        document = Document.of(signed_targets)
        # With its hash: a thief of only one of the two keys cannot combine what he signs with
        # other metadata that the other key has signed.
        meta = {"targets.json": MetaFile.from_data(number, document.data, ["sha256"])}
        number = next_number(Snapshot.type, before.snapshot.version if before else 0)
        snapshot = Metadata(Snapshot(number, expires=expires, meta=meta))
        for signer in self.key_folder.enough(root, Snapshot.type):
            snapshot.sign(signer, append=True)
        return MetadataSet(root, Document.of(snapshot), document)

    def require_clock(self, targets: Mapping[str, TargetFile]) -> None:
        """
        Make sure that no channel offers a release that was built in the future.

        :raises ReleaseFailed: if one does. Either this clock is behind, and what it signs would
            expire too early, or the release was built by a clock that was ahead.
        """
        problem = describe_future(targets.values(), self.now())
        if problem is not None:
            raise ReleaseFailed(problem)

    def expires(self) -> datetime:
        """Return when metadata that is signed now expires."""
        return self.now().astimezone(UTC).replace(microsecond=0) + timedelta(days=LIFETIME)


def describe_future(targets: Iterable[TargetFile], now: datetime) -> str | None:
    """Describe the channels that offer a release from the future, and the way out; or None."""
    newest: dict[str, int] = {}
    for target in filter(is_channel_target, targets):
        # The dry run reports channels that no box can follow.
        with suppress(Untrusted):
            newest[target.path] = read_offer(target).version
    channels = sorted(name for name, version in newest.items() if version > now.timestamp())
    if not channels:
        return None
    version = max(newest[name] for name in channels)
    return (
        f"Release {version} was built at {wording.utc(version)} by its name, and this machine's "
        f"clock shows {wording.utc(now.timestamp())}. If this clock is behind, set it right. If "
        "it is right, the other one was ahead, and boxes wait for that time: run opq-release drop "
        f"{' '.join(channels)}, and publish a release that was built with the right time."
    )


def require_channel(targets: Mapping[str, TargetFile], channel: str) -> TargetFile:
    """Return the target of a channel; raise `ReleaseFailed` if there is no such channel."""
    target = targets.get(channel) if is_channel(channel) else None
    if target is None:
        channels = [name for name, each in targets.items() if is_channel_target(each)]
        guess = wording.did_you_mean(channel, channels)
        raise ReleaseFailed(
            f"There is no channel {channel[:40]!r}"
            f"{guess or ': opq-release status shows those that there are.'}"
        )
    return target


def archives_in_use(targets: Mapping[str, TargetFile]) -> set[str]:
    """Return the names of the archives that channels need, with their releases before."""
    used: set[str] = set()
    for target in filter(is_channel_target, targets.values()):
        with suppress(Untrusted):  # no box follows this channel
            used |= {_archive_of(each) for each in (target, read_needed_before(target)) if each}
    return used


def unused_archive(channel: TargetFile, targets: Mapping[str, TargetFile]) -> str | None:
    """Return the archive that a channel offered, unless one of these targets needs it."""
    try:
        name = _archive_of(channel)
    except Untrusted:
        return None
    return None if name in archives_in_use(targets) else name


def _archive_of(channel: TargetFile) -> str:
    return str(UpdateName(read_offer(channel).version))
