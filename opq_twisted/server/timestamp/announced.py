"""Reads the releases that the timestamp in the folder announces to boxes."""

from collections.abc import Sequence
from typing import Any

from attrs import frozen
from tuf.api.metadata import Root, Timestamp

from opq_twisted.server.timestamp.paces import Current
from opq_twisted.server.timestamp.store import MetadataFolder
from opq_twisted.trust.repository_reader import (
    Document,
    MetadataSet,
    Unusable,
    is_signed,
    require_signed,
)


@frozen(eq=False)
class Announced:
    """What the timestamp in the folder announces to boxes."""

    #: The current root.
    root: Root
    #: None if the root does not accept it; `problem` says why.
    timestamp: Document[Timestamp] | None = None
    problem: str = ""
    #: The timestamp, if the root or an earlier one accepts it.
    signed_once: Document[Timestamp] | None = None
    #: The version of the snapshot that it names.
    version: int = 0
    #: None if boxes cannot follow the timestamp to the end; `error` says why.
    metadata_set: MetadataSet | None = None
    error: str = ""

    @property
    def minimum_version(self) -> int:
        """
        The snapshot that boxes know: they refuse older ones.

        A timestamp whose key was rotated still shows that, if it names a signed snapshot.
        """
        known = self.timestamp is not None or self.metadata_set is not None
        return self.version if known else 0

    @property
    def current(self) -> Current:
        """The paces in the timestamp, even if its key was rotated."""
        timestamp, metadata_set = self.signed_once, self.metadata_set
        return Current(
            None if timestamp is None else timestamp.signed,
            None if metadata_set is None else metadata_set.targets.signed,
        )

    @property
    def documents(self) -> dict[str, Document[Any]]:
        """The metadata that boxes accept, by role."""
        documents = self.metadata_set.documents if self.metadata_set else {}
        if self.timestamp is None:
            return documents
        return {Timestamp.type: self.timestamp, **documents}


def read_announced(folder: MetadataFolder, roots: Sequence[Document[Root]]) -> Announced:
    """
    Read the timestamp in the folder, and the metadata that it names.

    :param roots: the roots that boxes go through; the last one is the current one.
    :raises OSError: if the machine is too busy to open any file.
    """
    root = roots[-1].signed
    try:
        timestamp = folder.read_timestamp()
    except Unusable as error:
        return Announced(root, problem=str(error))
    accepted, problem, metadata_set, missing = None, "", None, ""
    try:
        require_signed(root, timestamp)
        accepted = timestamp
    except Unusable as error:
        problem = str(error)
    # A rotated key must not let a held release go.
    known = accepted or any(is_signed(each.signed, timestamp.metadata) for each in roots)
    version = timestamp.signed.snapshot_meta.version
    try:
        metadata_set = folder.read_set(root, version)
    except Unusable as error:
        missing = str(error)
    return Announced(
        root, accepted, problem, timestamp if known else None, version, metadata_set, missing
    )
