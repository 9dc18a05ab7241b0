"""How the signed metadata is: what one look at it finds, and does about it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from attrs import Factory, evolve, frozen
from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp
from twisted.logger import LogLevel

from opq_twisted.server.catalog.snapshot import Snapshot as Offered
from opq_twisted.server.timestamp.alerts import Alert
from opq_twisted.server.timestamp.select import (
    MetadataSet,
    channels,
    missing_archives,
    read_metadata_set,
    require_signed,
    root_chain,
    select_metadata,
)
from opq_twisted.server.timestamp.sign import (
    make_timestamp,
    reason_to_sign,
    require_key,
    write_timestamp,
)
from opq_twisted.server.timestamp.store import Document, MetadataFolder, Unusable
from opq_twisted.server.timestamp.superseded import remove_superseded

#: Hexadecimal digits; whoever could make two alike holds the keys.
_DIGEST_LENGTH = 16


@frozen(eq=False)
class MetadataState:
    """How the signed metadata is."""

    #: What boxes are told of, by role: root, timestamp, snapshot, targets; as far as it is signed.
    documents: Mapping[str, Document[Any]] = Factory(dict)
    #: Why the timestamp is not what it should be.
    alerts: tuple[Alert, ...] = ()
    #: Whether there is any metadata.
    present: bool = True
    #: What was signed and written just now, and why; None when there was no need.
    signed: str | None = None
    #: The roots that boxes go through, the last one being the current one.
    roots: Sequence[Document[Root]] = ()

    @property
    def announced(self) -> str | None:
        """
        A digest of the channels that the timestamp leads to; None when it leads to none.

        It is another one when a channel has another release, or another rollout, priority or notes
        of it. It stays the same when all of that is only signed anew.
        """
        targets = self.documents.get(Targets.type)
        if targets is None or Timestamp.type not in self.documents:
            return None
        announced = {name: target.to_dict() for name, target, _ in channels(targets.signed)}
        data = json.dumps(announced, sort_keys=True).encode()
        return hashlib.sha256(data).hexdigest()[:_DIGEST_LENGTH]

    @property
    def final(self) -> Mapping[str, bytes]:
        """
        The files, by name, that are verified and never change again.

        They are the snapshot and the targets that the current timestamp leads to, and the chain of
        roots that ends with the keys of that timestamp. Without a timestamp that boxes accept there
        is none: nothing shows then that the roots are the right ones.
        """
        timestamp, snapshot = self.documents.get(Timestamp.type), self.documents.get(Snapshot.type)
        if timestamp is None or snapshot is None:
            return {}
        try:
            timestamp.signed.snapshot_meta.verify_length_and_hashes(snapshot.data)
        except RepositoryError:
            return {}
        documents = (*self.roots, snapshot, self.documents[Targets.type])
        return {document.name: document.data for document in documents}


@frozen(eq=False)
class _Announced:
    """What the timestamp that is there tells boxes."""

    #: None when it is not signed as the current root wants it; why is the `problem`.
    timestamp: Document[Timestamp] | None = None
    problem: str = ""
    #: The version of the snapshot that it names.
    named: int = 0
    #: None when that is not signed, or not all there; why is the `gap`.
    metadata_set: MetadataSet | None = None
    gap: str = ""

    @property
    def floor(self) -> int:
        """
        The snapshot before which boxes must not be taken back.

        A timestamp whose key was rotated still tells what they know, if it names what is signed.
        """
        return self.named if self.timestamp is not None or self.metadata_set is not None else 0

    @property
    def documents(self) -> dict[str, Document[Any]]:
        """All that boxes accept of it."""
        if self.timestamp is None:
            return _parts(self.metadata_set)
        return {Timestamp.type: self.timestamp, **_parts(self.metadata_set)}


def refresh_timestamp(
    folder: MetadataFolder, offered: Offered, signer: Signer | None, now: float
) -> MetadataState:
    """
    Look at the metadata, and write a new timestamp if there has to be one.

    It reads and writes files: run it in a thread.

    :param signer: the timestamp's key; None where another server signs.
    :param now: seconds since the epoch.
    :raises OSError: when the machine cannot look now.
    """
    if not folder.look():
        missing = f"There is no signed metadata in {folder.path}. Make it with: opq-release init."
        alerts = (Alert(missing, LogLevel.warn),) if signer else ()
        return MetadataState(alerts=alerts, present=False)
    try:
        roots, problem = root_chain(folder)
    except Unusable as error:
        return MetadataState(alerts=(Alert(str(error)),))
    moment = datetime.fromtimestamp(int(now), UTC)
    root = roots[-1]
    told = _read_timestamp(folder, root.signed)
    if signer is None:
        metadata_state = _follow(told, moment)
    else:
        metadata_state = _keep(folder, root.signed, told, offered, signer, moment)
    alerts = (Alert(problem),) if problem else ()
    return evolve(
        metadata_state,
        documents={Root.type: root, **metadata_state.documents},
        roots=roots,
        alerts=(*alerts, *metadata_state.alerts),
    )


def _read_timestamp(folder: MetadataFolder, root: Root) -> _Announced:
    try:
        timestamp = folder.timestamp()
    except Unusable as error:
        return _Announced(problem=str(error))
    valid, problem, metadata_set, gap = None, "", None, ""
    try:
        require_signed(root, Timestamp.type, timestamp.name, timestamp.metadata)
        valid = timestamp
    except Unusable as error:
        problem = str(error)
    named = timestamp.signed.snapshot_meta.version
    try:
        metadata_set = read_metadata_set(folder, root, named)
    except Unusable as error:
        gap = str(error)
    return _Announced(valid, problem, named, metadata_set, gap)


def _follow(told: _Announced, now: datetime) -> MetadataState:
    """Judge what another server signed."""
    problems = []
    if told.timestamp is None:
        problems.append(f"No box accepts the timestamp: {told.problem}.")
    elif told.timestamp.signed.is_expired(now):
        problems.append("The timestamp has expired. Copy tuf/ from the server that signs it.")
    if told.gap:
        problems.append(f"Boxes are told of snapshot {told.named}, but cannot follow: {told.gap}.")
    return MetadataState(told.documents, tuple(map(Alert, problems)))


def _keep(
    folder: MetadataFolder,
    root: Root,
    told: _Announced,
    offered: Offered,
    signer: Signer,
    now: datetime,
) -> MetadataState:
    """Choose what boxes are to be told of, and tell them if they do not know it yet."""
    selection = select_metadata(folder, root, told.floor, offered, now)
    alerts = [] if selection.waiting is None else [Alert(selection.waiting, LogLevel.warn)]
    metadata_set, signed = selection.metadata_set, None
    for _, problem in missing_archives(metadata_set, offered) if metadata_set else ():
        remedy = "Put it back, or run opq-release drop"
        alerts.append(Alert(f"Boxes are told that {problem}. {remedy}.", LogLevel.warn))
    try:
        require_key(root, signer)
        if metadata_set is not None:
            reason = reason_to_sign(told.timestamp, metadata_set, now)
            if reason is not None:
                timestamp = make_timestamp(root, metadata_set, told.timestamp, signer, now)
                write_timestamp(folder.path, timestamp)
                told = evolve(told, timestamp=timestamp, metadata_set=metadata_set)
                signed = f"timestamp {timestamp.signed.version} for {metadata_set.snapshot.name}: "
                signed += reason
    except Unusable as error:
        alerts.append(Alert(str(error)))
    if told.timestamp is not None and told.metadata_set is not None:
        remove_superseded(folder, told.metadata_set, now)
    return MetadataState(told.documents or _parts(metadata_set), tuple(alerts), signed=signed)


def _parts(metadata_set: MetadataSet | None) -> dict[str, Document[Any]]:
    if metadata_set is None:
        return {}
    return {Snapshot.type: metadata_set.snapshot, Targets.type: metadata_set.targets}
