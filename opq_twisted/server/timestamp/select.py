"""Which state of the signed metadata boxes can follow: all of it is there, and signed."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from attrs import frozen
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets

from opq_twisted.common.errors import Untrusted
from opq_twisted.server.catalog.snapshot import Snapshot as Offered
from opq_twisted.server.timestamp.store import Document, MetadataFolder, Unusable
from opq_twisted.trust.offer import read_needed_before

#: Snapshots that are tried, from the newest on.
_MOST_TRIED = 16

_TARGETS_FILE = f"{Targets.type}.json"


@frozen(eq=False)
class MetadataSet:
    """A snapshot, and the targets that it names; both are signed by the keys of the root."""

    snapshot: Document[Snapshot]
    targets: Document[Targets]

    @property
    def version(self) -> int:
        """The snapshot's version."""
        return self.snapshot.signed.version

    @property
    def newest(self) -> int:
        """The highest version of the releases that the channels name; 0 when there is none."""
        versions = (target.custom.get("version") for _, target, _ in channels(self.targets.signed))
        return max((each for each in versions if type(each) is int), default=0)


def channels(targets: Targets) -> Iterator[tuple[str, TargetFile, str]]:
    """Give each channel: its name, its target, and the archive that it stands for."""
    for name, target in targets.targets.items():
        file = _file_of(target)
        if file is not None:
            yield name, target, file


def releases_of(channel: TargetFile) -> Iterator[tuple[TargetFile, str]]:
    """Give the releases to which a channel leads boxes, and their archives: one or two."""
    before = None
    with suppress(Untrusted):  # no box follows such a channel
        before = read_needed_before(channel)
    for target in (channel, before):
        file = None if target is None else _file_of(target)
        if target is not None and file is not None:
            yield target, file


def _file_of(target: TargetFile) -> str | None:
    file = target.custom.get("file") if isinstance(target.custom, dict) else None
    return file if isinstance(file, str) else None


@frozen
class Selection:
    """What the timestamp is to name, and what is still missing of something newer."""

    metadata_set: MetadataSet | None
    #: A sentence about the newest snapshot, while that one is not chosen.
    waiting: str | None = None


def root_chain(folder: MetadataFolder) -> tuple[list[Document[Root]], str | None]:
    """
    Find the roots that boxes go through, each one signed by itself and by the one before it.

    :returns: at least one; with a sentence about the next one, if that cannot be used.
    :raises Unusable: when there is none.
    :raises OSError: when the machine cannot look now.
    """
    chain: list[Document[Root]] = []
    problem: str | None = None
    for version in sorted(folder.versions(Root.type)):
        try:
            if chain and version != chain[-1].signed.version + 1:
                raise Unusable(f"root {chain[-1].signed.version + 1} is not there")
            root = folder.numbered(Root, version)
            require_signed(root.signed, Root.type, root.name, root.metadata)
            if chain:
                require_signed(chain[-1].signed, Root.type, root.name, root.metadata)
        except Unusable as error:
            problem = f"No box will accept {version}.root.json: {error}."
            if chain:
                break
        else:
            chain.append(root)
    if not chain:
        raise Unusable(problem or "There is no root.json.")
    return chain, problem


def require_signed(
    delegator: Root | Targets, role: str, name: str, metadata: Metadata[Any]
) -> None:
    """
    Find out whether metadata is signed by enough of the keys that its delegator names for the role.

    :raises Unusable: when it is not.
    """
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError):
        raise Unusable(
            f"{name} is not signed by enough of the keys that version {delegator.version} of "
            f"{delegator.type} names for {role}"
        ) from None


def read_metadata_set(folder: MetadataFolder, root: Root, version: int) -> MetadataSet:
    """
    Find the snapshot of this version and what it names, expired or not.

    :raises Unusable: when a part is not there or not whole, or not signed.
    :raises OSError: when the machine cannot look now.
    """
    snapshot = folder.numbered(Snapshot, version)
    require_signed(root, Snapshot.type, snapshot.name, snapshot.metadata)
    if _TARGETS_FILE not in snapshot.signed.meta:
        raise Unusable(f"{snapshot.name} names no targets")
    found = {}
    for file, meta in snapshot.signed.meta.items():
        role = file.removesuffix(".json")
        found[role] = document = folder.numbered(Targets, meta.version, role)
        try:
            meta.verify_length_and_hashes(document.data)
        except RepositoryError:
            raise Unusable(f"{document.name} is not the one that {snapshot.name} names") from None
    targets = found[Targets.type]
    require_signed(root, Targets.type, targets.name, targets.metadata)
    return MetadataSet(snapshot, targets)


def select_metadata(
    folder: MetadataFolder, root: Root, named: int, offered: Offered, now: datetime
) -> Selection:
    """
    Choose the newest state of the metadata that boxes can follow, never one before the `named`.

    :param named: the version of the snapshot that boxes were told of; 0 when there is none.
    :param offered: the archives to which a channel can lead.
    :raises OSError: when the machine cannot look now.
    """
    newer = [each for each in folder.versions(Snapshot.type) if each > named][:_MOST_TRIED]
    waiting: str | None = None
    before: MetadataSet | Unusable | None = None
    if named:
        try:
            before = read_metadata_set(folder, root, named)
        except Unusable as error:
            before = error
    told: Mapping[str, TargetFile] = {}
    if isinstance(before, MetadataSet):
        told = before.targets.signed.targets
    for version in newer:
        try:
            metadata_set = read_metadata_set(folder, root, version)
            _require_fresh(metadata_set, now)
            if isinstance(before, MetadataSet):
                _require_forward(before.snapshot, metadata_set.snapshot)
            for channel, problem in missing_archives(metadata_set, offered):
                # What boxes were told of already must not hold back what is new.
                if metadata_set.targets.signed.targets[channel] != told.get(channel):
                    raise Unusable(problem)
        except Unusable as error:
            waiting = waiting or f"Snapshot {version} is not announced yet: {error}."
        else:
            return Selection(metadata_set, waiting)
    try:
        if isinstance(before, MetadataSet):
            _require_fresh(before, now)
            return Selection(before, waiting)
        if before is not None:
            raise before
    except Unusable as error:
        return Selection(None, waiting or f"Snapshot {named} can be announced no longer: {error}.")
    return Selection(None, waiting or "There is no snapshot to announce.")


def _require_fresh(metadata_set: MetadataSet, now: datetime) -> None:
    for document in (metadata_set.snapshot, metadata_set.targets):
        if document.signed.is_expired(now):
            raise Unusable(f"{document.name} has expired; sign it again with: opq-release resign")


def _require_forward(before: Document[Snapshot], after: Document[Snapshot]) -> None:
    """Refuse what a box that saw the one before would take for a rollback (specification 5.5.5)."""
    for file, meta in before.signed.meta.items():
        successor = after.signed.meta.get(file)
        if successor is None or successor.version < meta.version:
            raise Unusable(f"to boxes it would take {file} back behind {before.name}")


def missing_archives(metadata_set: MetadataSet, offered: Offered) -> Iterator[tuple[str, str]]:
    """Give each channel that leads boxes to an archive that they would not get, and why not."""
    for channel, newest, _ in channels(metadata_set.targets.signed):
        for target, file in releases_of(newest):
            archive = offered.find(file)
            if archive is None:
                yield channel, f"channel {channel} leads to {file}, which is not on offer"
            elif archive.size != target.length:
                yield (
                    channel,
                    f"channel {channel} leads to {file} of {target.length} bytes, "
                    f"but the one on offer has {archive.size}",
                )
