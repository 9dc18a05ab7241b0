"""Checks the signed metadata, and signs a new timestamp when one is needed."""

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
from opq_twisted.server.timestamp.announced import Announced, read_announced
from opq_twisted.server.timestamp.paces import choose_paces
from opq_twisted.server.timestamp.select import (
    channels,
    missing_archives,
    root_chain,
    select_metadata,
)
from opq_twisted.server.timestamp.sign import (
    make_timestamp,
    reason_to_sign,
    require_key,
    write_timestamp,
)
from opq_twisted.server.timestamp.store import MetadataFolder
from opq_twisted.server.timestamp.superseded import remove_superseded
from opq_twisted.trust.pace import FIELD, PaceSource
from opq_twisted.trust.repository_reader import (
    Document,
    Unusable,
)

#: What to do while there is no metadata. Keys that were made on the server would be the wrong ones.
_REMEDY = "Run opq-release push on the release machine, after opq-release init there once."

#: Hexadecimal digits; only the holders of the keys could make two alike.
_DIGEST_LENGTH = 16


@frozen(eq=False)
class MetadataState:
    """The signed metadata as boxes see it, and the problems with it."""

    #: The metadata that boxes accept, by role: root, timestamp, snapshot, targets.
    documents: Mapping[str, Document[Any]] = Factory(dict)
    #: The problems with the timestamp.
    alerts: tuple[Alert, ...] = ()
    #: Whether there is any metadata.
    present: bool = True
    #: The timestamp that was signed just now, and why; None if there was no need.
    signed: str | None = None
    #: The roots that boxes go through; the last one is the current one.
    roots: Sequence[Document[Root]] = ()

    @property
    def announced(self) -> str | None:
        """
        A digest of the channels that the timestamp leads to; None when it leads to none.

        It changes when a channel gets another release, or another rollout, priority, pace or notes
        for it. It stays the same when everything is only signed again.
        """
        targets, timestamp = self.documents.get(Targets.type), self.documents.get(Timestamp.type)
        if targets is None or timestamp is None:
            return None
        announced: Any = {name: target.to_dict() for name, target, _ in channels(targets.signed)}
        if FIELD in timestamp.signed.unrecognized_fields:
            announced = [announced, timestamp.signed.unrecognized_fields[FIELD]]
        data = json.dumps(announced, sort_keys=True).encode()
        return hashlib.sha256(data).hexdigest()[:_DIGEST_LENGTH]

    @property
    def final(self) -> Mapping[str, bytes]:
        """
        The files, by name, that are verified and never change again.

        They are the snapshot and the targets that the current timestamp leads to, and the chain of
        roots that ends with the keys of that timestamp. Without a timestamp that boxes accept there
        are none: nothing shows then that the roots are the right ones.
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


def refresh_timestamp(
    folder: MetadataFolder,
    offered: Offered,
    signer: Signer | None,
    now: float,
    pace: PaceSource | None = None,
) -> MetadataState:
    """
    Check the metadata, and write a new timestamp if one is needed.

    It reads and writes files, so run it in a thread.

    :param offered: the archives that boxes can download.
    :param signer: the timestamp key; None if another server signs.
    :param now: seconds since the epoch.
    :param pace: knows the pace of the rollouts; None without a database of the fleet.
    :raises OSError: if the folder cannot be read, or the machine is too busy to open any file.
    """
    try:
        if not folder.refresh():
            sentence = f"There is no signed metadata in {folder.folder}."
            missing = Alert(f"{sentence} {_REMEDY}", LogLevel.warn)
            return MetadataState(alerts=(missing,) if signer else (), present=False)
        roots, problem = root_chain(folder)
    except Unusable as error:
        return MetadataState(alerts=(Alert(str(error)),))
    moment = datetime.fromtimestamp(int(now), UTC)
    root = roots[-1]
    announced = read_announced(folder, roots)
    if signer is None:
        state = _follow(announced, moment)
    else:
        state = _sign(folder, announced, offered, signer, moment, pace)
    alerts = (Alert(problem),) if problem else ()
    return evolve(
        state,
        documents={Root.type: root, **state.documents},
        roots=roots,
        alerts=(*alerts, *state.alerts),
    )


def _follow(announced: Announced, now: datetime) -> MetadataState:
    """Check what another server has signed."""
    problems = []
    if announced.timestamp is None:
        problems.append(f"No box accepts the timestamp: {announced.problem}.")
    elif announced.timestamp.signed.is_expired(now):
        problems.append("The timestamp has expired. Copy tuf/ from the server that signs it.")
    if announced.error:
        problems.append(
            f"The timestamp announces snapshot {announced.version}, but boxes cannot follow it: "
            f"{announced.error}."
        )
    return MetadataState(announced.documents, tuple(map(Alert, problems)))


def _sign(
    folder: MetadataFolder,
    announced: Announced,
    offered: Offered,
    signer: Signer,
    now: datetime,
    pace: PaceSource | None,
) -> MetadataState:
    """Select what to announce, and sign a timestamp for it unless there is one."""
    minimum = announced.minimum_version
    selection = select_metadata(folder, announced.root, minimum, offered, now)
    alerts = [] if selection.waiting is None else [Alert(selection.waiting, LogLevel.warn)]
    metadata_set, signed = selection.metadata_set, None
    for channel, problem in missing_archives(metadata_set, offered) if metadata_set else ():
        sentence = f"The announced {problem}, or end the channel with: opq-release drop {channel}."
        alerts.append(Alert(sentence, LogLevel.warn))
    try:
        require_key(announced.root, signer)
        if metadata_set is not None:
            chosen = choose_paces(metadata_set.targets.signed, announced.current, pace)
            alerts += chosen.alerts
            paces, previous = chosen.to_json(), announced.timestamp
            reason = reason_to_sign(previous, metadata_set, paces, now)
            if reason is not None:
                timestamp = make_timestamp(metadata_set, previous, paces, signer, now)
                write_timestamp(folder.folder, timestamp)
                announced = evolve(announced, timestamp=timestamp, metadata_set=metadata_set)
                name = metadata_set.snapshot.name
                signed = f"timestamp {timestamp.version} for {name}: {reason}"
    except Unusable as error:
        alerts.append(Alert(str(error)))
    if announced.timestamp is not None and announced.metadata_set is not None:
        remove_superseded(folder, announced.metadata_set, now)
    documents = announced.documents or (metadata_set.documents if metadata_set else {})
    return MetadataState(documents, tuple(alerts), signed=signed)
