"""Reads the TUF folder of an updates directory that strangers may have written to."""

import io
import os
from pathlib import Path
from typing import Any, TypeVar, cast

from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from opq_twisted.common import files
from opq_twisted.server.catalog.updates_file import Identity, NotOffered, identify, open_inside
from opq_twisted.trust.metadata_files import max_size
from opq_twisted.trust.repository_reader import Document, RepositoryReader, Unusable, explain, parse

_T = TypeVar("_T", Root, Timestamp, Snapshot, Targets)


def read(folder: Path, name: str) -> tuple[bytes, Identity]:
    """
    Read a regular file inside the folder completely, in one state.

    :raises Unusable: if there is none, it is longer than a box accepts, or it is being written.
    :raises OSError: if the machine is too busy to open any file.
    """
    if folder.is_symlink() and not files.is_inside(folder, folder.parent):
        raise Unusable(f"{folder.name} is a link that leads out of the updates directory")
    try:
        file = open_inside(folder, name)[1]
    except NotOffered as reason:
        raise Unusable(f"{name} cannot be used: {reason}") from None
    except files.NotRegular:
        raise Unusable(f"{name} is not a regular file") from None
    except OSError as error:
        raise explain(name, error) from None
    try:
        with file, io.BufferedReader(file) as buffered:
            before = os.fstat(file.fileno())
            if before.st_size > max_size(name):
                raise Unusable(f"{name} is longer than a box accepts: {max_size(name)} bytes")
            data = buffered.read(before.st_size + 1)
            after = identify(os.fstat(file.fileno()))
    except OSError as error:
        raise explain(name, error) from None
    if after != identify(before) or len(data) != before.st_size:
        raise Unusable(f"{name} is being written")
    return data, after


class MetadataFolder(RepositoryReader):
    """Reads a file again only if it has changed, and follows no link out of the folder."""

    def __init__(self, updates: Path) -> None:
        super().__init__(updates)
        #: What was found in the files that were read before, and since, the last `refresh`.
        self._known: dict[str, tuple[Identity, Document[Any] | Unusable]] = {}
        self._used: dict[str, tuple[Identity, Document[Any] | Unusable]] = {}
        self._versions: dict[str, list[int]] = {}

    def refresh(self) -> bool:
        """
        List the files, and forget files that were not read since the last time.

        :returns: whether there is any metadata.
        :raises Unusable: if the folder holds far too many files.
        :raises OSError: if the folder cannot be read.
        """
        self._known, self._used = self._used, {}
        self._versions = {}
        self._versions = self._list()
        return bool(self._versions)

    def versions(self, role: str) -> list[int]:
        """List the versions of a role at the last `refresh`, the newest first."""
        return self._versions.get(role, [])

    def _load(self, kind: type[_T], name: str) -> Document[_T]:
        try:
            identity = identify(os.stat(self.folder / name))
        except OSError as error:
            raise explain(name, error) from None
        known = self._used.get(name) or self._known.get(name)
        if known is None or known[0] != identity:
            data, identity = read(self.folder, name)
            try:
                known = identity, parse(kind, name, data)
            except Unusable as error:
                known = identity, error
        self._used[name] = known
        if isinstance(known[1], Unusable):
            raise known[1]
        return cast(Document[_T], known[1])
