"""Reads the TUF folder of an updates directory, for the server and for `opq-release`."""

import os
import re
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from attrs import frozen
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from opq_twisted.common import files
from opq_twisted.common.errors import MACHINE_BUSY
from opq_twisted.trust.key_ids import verify_key_ids
from opq_twisted.trust.metadata_files import METADATA, max_size

#: The names of metadata files (TUF specification, section 7): a version and a role, or no version.
NAME = re.compile(r"(?:([1-9][0-9]{0,14})\.([A-Za-z0-9_-]{1,64})|timestamp)\.json", re.ASCII)

#: The highest version that `NAME` allows.
MAX_VERSION = 10**15 - 1

#: The only file without a version.
TIMESTAMP_FILE = f"{Timestamp.type}.json"

#: How many of the newest snapshots and targets are never removed.
KEPT = 5

#: More than a release every hour makes in years.
_MAX_FILES = 100_000

_TARGETS_FILE = f"{Targets.type}.json"

_T = TypeVar("_T", Root, Timestamp, Snapshot, Targets)


class Unusable(Exception):
    """A file of the metadata cannot be used; the text names the file and the reason."""


class Damaged(Unusable):
    """A file is there, but its content is not metadata of the role and version in its name."""


@frozen(eq=False)
class Document(Generic[_T]):
    """A metadata file that was parsed; nothing in it is verified yet."""

    name: str
    data: bytes
    metadata: Metadata[_T]

    @classmethod
    def of(cls, metadata: Metadata[_T]) -> "Document[_T]":
        """
        Make the file of metadata that was just signed.

        :raises RepositoryError: if it cannot be written as JSON.
        """
        signed = metadata.signed
        numbered = f"{signed.version}.{signed.type}.json"
        name = TIMESTAMP_FILE if isinstance(signed, Timestamp) else numbered
        return cls(name, metadata.to_bytes(), metadata)

    @property
    def signed(self) -> _T:
        """The content, without the signatures."""
        return self.metadata.signed

    @property
    def version(self) -> int:
        """The version in the content."""
        return self.metadata.signed.version


@frozen(eq=False)
class MetadataSet:
    """A snapshot, the targets that it names, and the root whose keys have to sign both."""

    root: Root
    snapshot: Document[Snapshot]
    targets: Document[Targets]

    @property
    def documents(self) -> dict[str, Document[Any]]:
        """The snapshot and the targets, by role."""
        return {Snapshot.type: self.snapshot, Targets.type: self.targets}


class RepositoryReader:
    """
    Reads files of one TUF folder, each at most as long as a box accepts.

    `tuf.repository.Repository` has no part for this: it edits the newest version of each role in
    place, and trusts all that it opens.
    """

    def __init__(self, updates: Path) -> None:
        """:param updates: the updates directory, which holds the folder."""
        self.folder = updates / METADATA

    def versions(self, role: str) -> list[int]:
        """
        List the versions of a role, the newest first.

        :raises Unusable: if the folder holds far too many files.
        :raises OSError: if the folder cannot be read.
        """
        return self._list().get(role, [])

    def read(self, kind: type[_T], version: int, role: str | None = None) -> Document[_T]:
        """
        Read one version of a role's metadata.

        :param role: the name of a delegated role; None for a role of TUF's own.
        :raises Unusable: if the file is missing.
        :raises Damaged: if it is there, and cannot be used.
        :raises OSError: if the machine is too busy to open any file.
        """
        document = self._load(kind, f"{version}.{role or kind.type}.json")
        if document.version != version:
            raise Damaged(f"{document.name} holds version {document.version}")
        return document

    def read_timestamp(self) -> Document[Timestamp]:
        """Read the timestamp; it raises the errors of `read`."""
        return self._load(Timestamp, TIMESTAMP_FILE)

    def read_set(self, root: Root, version: int) -> MetadataSet:
        """
        Read the snapshot of this version and all that it names, expired or not.

        :raises Unusable: if a file is missing, is not the one that the snapshot names, or lacks
            signatures that the root requires.
        :raises Damaged: if a file is there, and cannot be used.
        :raises OSError: if the machine is too busy to open any file.
        """
        snapshot = self.read(Snapshot, version)
        require_signed(root, snapshot)
        if _TARGETS_FILE not in snapshot.signed.meta:
            raise Unusable(f"{snapshot.name} names no targets")
        found = {}
        for file, meta in snapshot.signed.meta.items():
            role = file.removesuffix(".json")
            found[file] = document = self.read(Targets, meta.version, role)
            try:
                meta.verify_length_and_hashes(document.data)
            except RepositoryError:
                raise Unusable(
                    f"{document.name} is not the file that {snapshot.name} names"
                ) from None
        targets = found[_TARGETS_FILE]
        require_signed(root, targets)
        return MetadataSet(root, snapshot, targets)

    def _list(self) -> dict[str, list[int]]:
        try:
            with os.scandir(self.folder) as entries:
                names = [entry.name for entry in islice(entries, _MAX_FILES + 1)]
        except FileNotFoundError:
            return {}
        if len(names) > _MAX_FILES:
            raise Unusable(f"{self.folder} holds more than {_MAX_FILES} files")
        versions: dict[str, list[int]] = {}
        for match in map(NAME.fullmatch, names):
            if match is not None and match[1]:
                versions.setdefault(match[2], []).append(int(match[1]))
        for each in versions.values():
            each.sort(reverse=True)
        return versions

    def _load(self, kind: type[_T], name: str) -> Document[_T]:
        try:
            data = files.read(self.folder / name, max_size(name))
        except OSError as error:
            raise explain(name, error) from None
        return parse(kind, name, data)


def explain(name: str, error: OSError) -> Exception:
    """Make `Unusable` of an error, unless the machine is to blame and not the file."""
    if error.errno in MACHINE_BUSY:
        return error
    if isinstance(error, FileNotFoundError):
        return Unusable(f"{name} is not there")
    return Damaged(f"{name} cannot be read ({error.strerror})")


def is_signed(root: Root, metadata: Metadata[Any]) -> bool:
    """Whether metadata has as many valid signatures as the root requires for its role."""
    try:
        result = root.get_verification_result(
            metadata.signed.type, metadata.signed_bytes, metadata.signatures
        )
    except (RepositoryError, ValueError):
        return False
    return result.verified


def require_signed(root: Root, document: Document[Any]) -> None:
    """Raise `Unusable` unless metadata `is_signed`."""
    if not is_signed(root, document.metadata):
        raise Unusable(
            f"{document.name} is not signed by enough of the keys that version {root.version} of "
            f"root names for {document.signed.type}"
        )


def parse(kind: type[_T], name: str, data: bytes) -> Document[_T]:
    """Parse a metadata file; raise `Damaged` if it is not metadata of this kind."""
    try:
        metadata = Metadata[_T].from_bytes(data)
        # Numbers that canonical JSON does not have, such as fractions, cannot have been signed.
        _ = metadata.signed_bytes
    except RepositoryError:
        raise Damaged(f"{name} is damaged or incomplete") from None
    if not isinstance(metadata.signed, kind):
        raise Damaged(f"{name} holds the metadata of another role")
    if isinstance(metadata.signed, Root):
        try:
            verify_key_ids(metadata.signed)
        except RepositoryError as error:
            raise Damaged(f"{name} cannot be trusted: {error}") from None
    return Document(name, data, metadata)
