"""Signs anew, with the keys in one folder, what a repository holds."""

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
from opq_twisted.signing.repository import MetadataSet, Repository
from opq_twisted.trust.offer import is_channel, read_needed_before, read_offer

#: Days until what is signed by hand expires.
LIFETIME = 365


@frozen
class RepositorySigner:
    """The keys in one folder, and the repository that they sign."""

    repository: Repository
    key_folder: KeyFolder
    now: Callable[[], datetime]

    def resign(self) -> None:
        """
        Sign targets and snapshot anew, for a year from now.

        :raises ReleaseFailed: when a key is missing, or boxes would refuse the result.
        :raises KeyUnusable: when a key cannot be opened.
        :raises OSError: when the disk is full or fails.
        """
        self.change(lambda targets: None)

    def drop(self, channels: Sequence[str]) -> list[str]:
        """
        Offer nothing in some channels any more; their boxes keep what they have.

        :returns: the archives that were offered, unless another channel still leads to them.
        :raises ReleaseFailed: when there is no such channel, a key is missing, or boxes would
            refuse the result.
        :raises KeyUnusable: when a key cannot be opened.
        :raises OSError: when the disk is full or fails.
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
        Change the targets, and sign them and a snapshot.

        :param edit: changes the targets, which it is given by name; what it raises changes nothing.
        :returns: what boxes are to follow from now on.
        :raises ReleaseFailed: when a key is missing, or boxes would refuse the result.
        :raises KeyUnusable: when a key cannot be opened.
        :raises OSError: when the disk is full or fails.
        """
        with self.repository.locked():
            current = self.current()
            targets = dict(current.targets.signed.targets)
            edit(targets)
            after = self.sign(current.offering(targets))
            try_metadata_sets(current, after)
            self.place(after)
            return after

    def current(self) -> MetadataSet:
        """
        Give what boxes follow now, by the newest root.

        :raises ReleaseFailed: when the roots are not what boxes and these keys know, the newest has
            expired, or there is no snapshot, or only one that these keys have left behind.
        """
        root = self.roots()[-1]
        if root.signed.is_expired(self.now().astimezone(UTC)):
            raise ReleaseFailed(
                f"Root {root.signed.version} has expired, and boxes would refuse all that follows: "
                "run opq-release renew-root first. It was good until "
                f"{root.signed.expires:%Y-%m-%d}, and this machine's clock shows "
                f"{wording.utc(self.now().timestamp())}."
            )
        current = self.repository.current(root)
        self.key_folder.require_not_behind(current.snapshot.signed)
        return current

    def place(self, metadata_set: MetadataSet) -> None:
        """
        Let boxes see a metadata set.

        :raises ReleaseFailed: when a number is taken.
        :raises OSError: when the disk is full or fails.
        """
        self.repository.place(metadata_set.targets, metadata_set.snapshot)
        # Not sooner: what is interrupted before was never seen, and is signed again.
        self.key_folder.remember(metadata_set.snapshot.signed)
        self.repository.remove_superseded()

    def roots(self) -> list[Metadata[Root]]:
        """
        Give the roots that boxes go through, and that these keys know.

        :raises ReleaseFailed: when they are others.
        """
        roots = self.repository.roots()
        try_roots(roots)
        self.key_folder.recognise(roots)
        return roots

    def sign(self, metadata_set: MetadataSet) -> MetadataSet:
        """
        Give targets and snapshot their next numbers, another year, and the signatures of its root.

        :raises ReleaseFailed: when a key is missing, or the clock is wrong.
        :raises KeyUnusable: when a key cannot be opened.
        """
        repository, root = self.repository, metadata_set.root
        content = metadata_set.targets.signed.targets
        self.require_clock(metadata_set)
        targets = Metadata(
            Targets(
                repository.next_number(metadata_set.targets),
                expires=self.expires(),
                targets=content,
            )
        )
        for signer in self.key_folder.enough(root.signed, Targets.type):
            targets.sign(signer, append=True)
        # By its hash and not only its number: a thief of one of both keys can put nothing else in
        # the place of what the other one signed.
        meta = MetaFile.from_data(targets.signed.version, targets.to_bytes(), ["sha256"])
        snapshot = Metadata(
            Snapshot(
                repository.next_number(metadata_set.snapshot),
                expires=self.expires(),
                meta={"targets.json": meta},
            )
        )
        for signer in self.key_folder.enough(root.signed, Snapshot.type):
            snapshot.sign(signer, append=True)
        return MetadataSet(root, targets, snapshot)

    def require_clock(self, metadata_set: MetadataSet) -> None:
        """
        Make sure that no channel offers a release that was built at a time that has not come yet.

        :raises ReleaseFailed: when one does: either what this clock signs would expire too early,
            or the release was built by a clock that was ahead.
        """
        problem = describe_future(metadata_set.targets.signed.targets.values(), self.now())
        if problem is not None:
            raise ReleaseFailed(problem)

    def expires(self) -> datetime:
        """Say when expires what is signed now."""
        return self.now().astimezone(UTC).replace(microsecond=0) + timedelta(days=LIFETIME)


def describe_future(targets: Iterable[TargetFile], now: datetime) -> str | None:
    """Say which channels offer a release from the future, if any do, and what leads out of it."""
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
    """
    Give the target that a channel is.

    :raises ReleaseFailed: when there is no such channel.
    """
    target = targets.get(channel) if is_channel(channel) else None
    if target is None:
        raise ReleaseFailed(
            f"There is no channel {channel[:40]!r}: opq-release status shows those that there are."
        )
    return target


def archives_in_use(targets: Mapping[str, TargetFile]) -> set[str]:
    """Give the names of the archives to which channels lead, with their releases before."""
    used: set[str] = set()
    for target in filter(is_channel_target, targets.values()):
        with suppress(Untrusted):  # no box follows it
            used |= {_archive_of(each) for each in (target, read_needed_before(target)) if each}
    return used


def unused_archive(channel: TargetFile, targets: Mapping[str, TargetFile]) -> str | None:
    """Give the name of the archive that a channel led to, unless one of these targets does."""
    try:
        name = _archive_of(channel)
    except Untrusted:
        return None
    return None if name in archives_in_use(targets) else name


def _archive_of(channel: TargetFile) -> str:
    return str(UpdateName(read_offer(channel).version))
