"""Selects the newest metadata set that boxes can follow to the end."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime

from attrs import frozen
from tuf.api.metadata import Root, Snapshot, TargetFile, Targets

from opq_twisted.archive.name import UpdateName
from opq_twisted.common import wording
from opq_twisted.common.errors import InvalidName, Untrusted
from opq_twisted.server.catalog.snapshot import Snapshot as Offered
from opq_twisted.server.timestamp.store import MetadataFolder
from opq_twisted.trust.offer import read_needed_before
from opq_twisted.trust.repository_reader import Document, MetadataSet, Unusable, require_signed

#: How many snapshots are tried, from the newest on.
_MAX_TRIED = 16


def channels(targets: Targets) -> Iterator[tuple[str, TargetFile, str]]:
    """Yield each channel: its name, its target, and the name of its archive."""
    for name, target in targets.targets.items():
        file = _archive_of(target)
        if file is not None:
            yield name, target, file


def releases_of(channel: TargetFile) -> Iterator[tuple[TargetFile, str]]:
    """Yield the one or two releases that boxes of a channel install, with their archives."""
    before = None
    with suppress(Untrusted):  # no box follows such a channel
        before = read_needed_before(channel)
    for target in (channel, before):
        file = None if target is None else _archive_of(target)
        if target is not None and file is not None:
            yield target, file


def _archive_of(target: TargetFile) -> str | None:
    file = target.custom.get("file") if isinstance(target.custom, dict) else None
    return file if isinstance(file, str) else None


@frozen
class Selection:
    """The metadata set to announce, and the reason why it is not a newer one."""

    #: None if there is no metadata set that boxes can follow.
    metadata_set: MetadataSet | None
    #: A sentence that says why the newest snapshot was not selected; None if it was.
    waiting: str | None = None


def root_chain(folder: MetadataFolder) -> tuple[list[Document[Root]], str | None]:
    """
    Find the roots that boxes go through, each one signed by its own keys and by the previous one's.

    :returns: at least one root, and a sentence about the next one if that cannot be used.
    :raises Unusable: if there is none.
    :raises OSError: if the machine is too busy to open any file.
    """
    chain: list[Document[Root]] = []
    problem: str | None = None
    for version in sorted(folder.versions(Root.type)):
        try:
            if chain and version != chain[-1].version + 1:
                raise Unusable(f"root {chain[-1].version + 1} is not there")
            root = folder.read(Root, version)
            require_signed(root.signed, root)
            if chain:
                require_signed(chain[-1].signed, root)
        except Unusable as error:
            problem = f"No box will accept {version}.root.json: {error}."
            if chain:
                break
        else:
            chain.append(root)
    if not chain:
        raise Unusable(problem or "There is no root.json.")
    return chain, problem


def select_metadata(
    folder: MetadataFolder, root: Root, announced: int, offered: Offered, now: datetime
) -> Selection:
    """
    Select the newest metadata set that boxes can follow, never one older than the announced one.

    :param announced: the version of the snapshot that boxes know already; 0 if there is none.
    :param offered: the archives that boxes can download.
    :raises OSError: if the machine is too busy to open any file.
    """
    before = fallback = waiting = None
    problem = "There is no snapshot to announce."
    if announced:
        try:
            before = folder.read_set(root, announced)
            _require_fresh(before, now)
            fallback = before
        except Unusable as error:
            problem = f"Snapshot {announced} can be announced no longer: {error}."
    newer = [each for each in folder.versions(Snapshot.type) if each > announced]
    for version in newer[:_MAX_TRIED]:
        try:
            metadata_set = folder.read_set(root, version)
            _require_fresh(metadata_set, now)
            _require_successor(before, metadata_set)
            _require_archives(before, metadata_set, offered)
        except Unusable as error:
            waiting = waiting or f"Snapshot {version} is not announced yet: {error}."
        else:
            return Selection(metadata_set, waiting)
    return Selection(fallback, waiting if fallback else waiting or problem)


def _require_fresh(metadata_set: MetadataSet, now: datetime) -> None:
    for document in (metadata_set.snapshot, metadata_set.targets):
        if document.signed.is_expired(now):
            raise Unusable(f"{document.name} has expired; sign it again with: opq-release resign")


def _require_successor(before: MetadataSet | None, after: MetadataSet) -> None:
    """Refuse metadata that boxes would reject as a rollback (TUF specification, section 5.5.5)."""
    if before is None:
        return
    for file, meta in before.snapshot.signed.meta.items():
        successor = after.snapshot.signed.meta.get(file)
        if successor is None or successor.version < meta.version:
            raise Unusable(f"boxes know a newer version of {file} from {before.snapshot.name}")


def _require_archives(before: MetadataSet | None, after: MetadataSet, offered: Offered) -> None:
    """Refuse channels whose archive is missing, unless boxes know them already as they are."""
    known: Mapping[str, TargetFile] = {} if before is None else before.targets.signed.targets
    for channel, problem in missing_archives(after, offered):
        # A channel that was announced before must not hold back a new snapshot.
        if after.targets.signed.targets[channel] != known.get(channel):
            raise Unusable(problem)


def missing_archives(metadata_set: MetadataSet, offered: Offered) -> Iterator[tuple[str, str]]:
    """Yield each channel whose archive boxes cannot download, and the reason with its remedy."""
    for channel, newest, _ in channels(metadata_set.targets.signed):
        for target, file in releases_of(newest):
            archive = offered.find(file)
            leads = f"channel {channel} leads to {_describe(file)}"
            if archive is None:
                yield (
                    channel,
                    f"{leads}, which is not here or not whole: copy {file} to this server",
                )
            elif archive.size != target.length:
                yield (
                    channel,
                    f"{leads}, of {target.length} bytes, but the one here has {archive.size}: copy "
                    f"the signed {file} to this server",
                )


def _describe(file: str) -> str:
    """Name the release of an archive by its time."""
    try:
        return f"the release of {wording.long_utc(UpdateName.parse(file).version)}"
    except InvalidName:
        return file
