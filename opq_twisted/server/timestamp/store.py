"""The files of the signed metadata: read within bounds, and parsed once while they stay."""

import io
import os
import re
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from attrs import frozen
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from opq_twisted.common import files
from opq_twisted.common.errors import MACHINE_BUSY
from opq_twisted.server.catalog.snapshot import Identity, NotOffered, identify, open_inside
from opq_twisted.trust.key_ids import require_own_ids
from opq_twisted.trust.tuf_client import METADATA, max_size

#: The names that metadata has (TUF specification, section 7): a version and a role, or no version.
NAME = re.compile(r"(?:([1-9][0-9]{0,14})\.([A-Za-z0-9_-]{1,64})|timestamp)\.json", re.ASCII)

#: The one file without a version.
TIMESTAMP_FILE = f"{Timestamp.type}.json"

_T = TypeVar("_T", Root, Timestamp, Snapshot, Targets)


class Unusable(Exception):
    """A file of the metadata, or the whole of it, cannot be used; the text says which and why."""


@frozen(eq=False)
class Document(Generic[_T]):
    """A file of the metadata that could be parsed; nothing in it is verified yet."""

    name: str
    data: bytes
    metadata: Metadata[_T]

    @property
    def signed(self) -> _T:
        """What the signatures are over."""
        return self.metadata.signed


def folder_of(updates: Path) -> Path:
    """Say where the metadata of an updates directory is."""
    return updates / METADATA


def read(folder: Path, name: str) -> tuple[bytes, Identity]:
    """
    Read a regular file inside the folder, all of it, in one state.

    :raises Unusable: when there is none, it is too long for a box, or it is being written.
    :raises OSError: when the machine cannot open it now, whatever it is.
    """
    if folder.is_symlink() and not _inside(folder, folder.parent):
        raise Unusable(f"{folder.name} is a link that leads out of the updates directory")
    try:
        file = open_inside(folder, name)[1]
    except NotOffered as reason:
        raise Unusable(f"{name} cannot be used: {reason}") from None
    except files.NotRegular:
        raise Unusable(f"{name} is not a regular file") from None
    except OSError as error:
        raise _unusable(name, error) from None
    try:
        with file, io.BufferedReader(file) as buffered:
            before = os.fstat(file.fileno())
            if before.st_size > max_size(name):
                raise Unusable(f"{name} is longer than a box takes: {max_size(name)} bytes")
            data = buffered.read(before.st_size + 1)
            after = identify(os.fstat(file.fileno()))
    except OSError as error:
        raise _unusable(name, error) from None
    if after != identify(before) or len(data) != before.st_size:
        raise Unusable(f"{name} is being written")
    return data, after


def _inside(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _unusable(name: str, error: OSError) -> Exception:
    """Tell a file's own fault from the machine's, which says nothing about the file."""
    if error.errno in MACHINE_BUSY:
        return error
    if isinstance(error, FileNotFoundError):
        return Unusable(f"{name} is not there")
    return Unusable(f"{name} cannot be read: {error.strerror}")


class MetadataFolder:
    """The folder of the metadata, of which a file is read again only when it has changed."""

    def __init__(self, updates: Path) -> None:
        self.path = folder_of(updates)
        self._known: dict[str, tuple[Identity, Document[Any] | Unusable]] = {}
        self._used: dict[str, tuple[Identity, Document[Any] | Unusable]] = {}
        self._versions: dict[str, list[int]] = {}

    def look(self) -> bool:
        """
        See which files there are, and forget those that nobody asked for since the last time.

        :returns: whether there is any metadata.
        :raises OSError: when the folder cannot be read.
        """
        self._known, self._used = self._used, {}
        self._versions = {}
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return False
        for match in map(NAME.fullmatch, names):
            if match is not None and match[1]:
                self._versions.setdefault(match[2], []).append(int(match[1]))
        for versions in self._versions.values():
            versions.sort(reverse=True)
        return bool(self._versions)

    def versions(self, role: str) -> list[int]:
        """Tell the versions of a role that there were at the last look, the newest first."""
        return self._versions.get(role, [])

    def numbered(self, kind: type[_T], version: int, role: str | None = None) -> Document[_T]:
        """
        Read one version of a role's metadata.

        :raises Unusable: when it is not there, not whole, or not what its name says.
        :raises OSError: when the machine cannot open it now.
        """
        document = self._get(kind, f"{version}.{role or kind.type}.json")
        if document.signed.version != version:
            raise Unusable(f"{document.name} says that it is version {document.signed.version}")
        return document

    def timestamp(self) -> Document[Timestamp]:
        """
        Read the timestamp.

        :raises Unusable: when it is not there, or none.
        :raises OSError: when the machine cannot open it now.
        """
        return self._get(Timestamp, TIMESTAMP_FILE)

    def _get(self, kind: type[_T], name: str) -> Document[_T]:
        try:
            identity = identify(os.stat(self.path / name))
        except OSError as error:
            raise _unusable(name, error) from None
        known = self._used.get(name) or self._known.get(name)
        if known is None or known[0] != identity:
            data, identity = read(self.path, name)
            known = identity, _parse(kind, name, data)
        self._used[name] = known
        if isinstance(known[1], Unusable):
            raise known[1]
        return cast(Document[_T], known[1])


def _parse(kind: type[_T], name: str, data: bytes) -> Document[_T] | Unusable:
    try:
        metadata = Metadata[_T].from_bytes(data)
    except RepositoryError:
        return Unusable(f"{name} is no metadata: its upload goes on, or was cut off")
    if not isinstance(metadata.signed, kind):
        return Unusable(f"{name} holds the metadata of another role")
    if isinstance(metadata.signed, Root):
        try:
            require_own_ids(metadata.signed)
        except RepositoryError as error:
            return Unusable(f"{name} cannot be trusted: {error}")
    return Document(name, data, metadata)
