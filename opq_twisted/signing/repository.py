"""The signed metadata beside the archives, on the disk."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from attrs import Factory, frozen
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp

from opq_twisted.archive.name import UpdateName
from opq_twisted.common import files
from opq_twisted.common.errors import ReleaseFailed
from opq_twisted.trust.key_ids import require_own_ids
from opq_twisted.trust.offer import Offer
from opq_twisted.trust.tuf_client import METADATA, max_size

_NUMBERED = re.compile(r"([1-9][0-9]{0,14})\.(root|targets|snapshot)\.json", re.ASCII)
#: How many snapshots and targets are kept, the newest ones.
KEPT = 5
#: Servers know no longer ones.
_MOST = 10**15 - 1
#: More numbers than interruptions can have used up since the last file that counts.
_MOST_IN_VAIN = 1000
#: More files than a release every hour makes in years.
_MOST_FILES = 100_000
_TARGETS_FILE = f"{Targets.type}.json"
_READABLE_BY_ALL = 0o644

_T = TypeVar("_T", Root, Targets, Snapshot)


@frozen
class MetadataSet:
    """Metadata that belongs together; boxes see it once a timestamp names its snapshot."""

    root: Metadata[Root]
    targets: Metadata[Targets]
    snapshot: Metadata[Snapshot]
    #: Targets and snapshot as they lie on the disk, by role.
    files: Mapping[str, bytes] = Factory(dict)

    def data(self, document: Metadata[Any]) -> bytes:
        """Give the file of targets or snapshot; of one that is not written yet, what it will be."""
        return self.files.get(document.signed.type) or document.to_bytes()

    def offering(self, targets: dict[str, TargetFile]) -> "MetadataSet":
        """Give one with other targets, to be signed."""
        content = Targets(self.targets.signed.version, targets=targets)
        return MetadataSet(self.root, Metadata(content), self.snapshot)


class Repository:
    """
    One updates directory.

    Numbered files are written once and never changed: archive, targets, snapshot, root, in this
    order, so that whoever copies the directory meanwhile never has a name that leads to nothing.
    """

    def __init__(self, updates: Path) -> None:
        self.updates = updates
        self.folder = updates / METADATA

    @contextmanager
    def locked(self) -> Iterator[None]:
        """
        Keep others from writing at the same time.

        :raises ReleaseFailed: when somebody does, or nobody can.
        """
        if not self.updates.is_dir():
            raise ReleaseFailed(
                f"There is no updates directory {self.updates}: make it, or name another with "
                "--updates-dir."
            )
        try:
            if not self.folder.is_dir():
                self.folder.mkdir()
                files.sync_folder(self.updates)
            lock = files.lock(self.folder / ".lock")
        except BlockingIOError:
            raise ReleaseFailed(
                f"Another opq-release works in {self.folder}: wait until it has ended."
            ) from None
        except OSError as error:
            raise ReleaseFailed(
                f"Nothing can be written in {self.folder}: {error.strerror}."
            ) from None
        try:
            yield
        finally:
            os.close(lock)

    def numbers(self, role: str) -> list[int]:
        """Give the numbers of a role's files, in order."""
        matches = map(_NUMBERED.fullmatch, self._names())
        return sorted(int(match[1]) for match in matches if match and match[2] == role)

    def next_number(self, document: Metadata[Any]) -> int:
        """
        Give the number of the file that follows this one: one that was never used, even in vain.

        :raises ReleaseFailed: when somebody uses up the numbers.
        """
        role, current = document.signed.type, document.signed.version
        highest = max(self.numbers(role), default=0)
        if highest >= min(current + _MOST_IN_VAIN, _MOST):
            raise ReleaseFailed(
                f"{self.folder}/{highest}.{role}.json is far ahead of {current}, the newest that "
                "is signed: it is not one of yours, take it away."
            )
        return highest + 1

    def _names(self) -> list[str]:
        try:
            with os.scandir(self.folder) as entries:
                names = [entry.name for entry in islice(entries, _MOST_FILES + 1)]
        except FileNotFoundError:
            return []
        if len(names) > _MOST_FILES:
            raise ReleaseFailed(
                f"{self.folder} holds more than {_MOST_FILES} files: they are not all yours, "
                "restore it from a copy."
            )
        return names

    def roots(self) -> list[Metadata[Root]]:
        """
        Give all roots, from the first on; whether boxes can follow them is another question.

        :raises ReleaseFailed: when there is none, or one is missing or damaged.
        """
        numbers = self.numbers(Root.type)
        if not numbers:
            raise ReleaseFailed(
                f"{self.folder} holds no root: run opq-release init, or name another directory "
                "with --updates-dir."
            )
        return [self._read(Root, number)[0] for number in range(numbers[0], numbers[-1] + 1)]

    def current(self, root: Metadata[Root]) -> MetadataSet:
        """
        Give the newest snapshot that is whole and signed as this root asks, with its targets.

        :raises ReleaseFailed: when there is none, or a newer file is damaged.
        """
        for number in self.numbers(Snapshot.type)[: -_MOST_IN_VAIN - 1 : -1]:
            metadata_set = self._metadata_set(root, number)
            if metadata_set is not None:
                return metadata_set
        raise ReleaseFailed(
            f"{self.folder} holds no snapshot that root {root.signed.version} accepts: restore it "
            "from a copy."
        )

    def _metadata_set(self, root: Metadata[Root], number: int) -> MetadataSet | None:
        snapshot, snapshot_data = self._read(Snapshot, number)
        meta = snapshot.signed.meta.get(_TARGETS_FILE)
        if (
            meta is None
            or meta.version not in self.numbers(Targets.type)
            or not is_signed(root.signed, snapshot)
        ):
            return None
        targets, targets_data = self._read(Targets, meta.version)
        try:
            meta.verify_length_and_hashes(targets_data)
        except RepositoryError:
            return None
        if not is_signed(root.signed, targets):
            return None
        files = {Snapshot.type: snapshot_data, Targets.type: targets_data}
        return MetadataSet(root, targets, snapshot, files)

    def holds(self, release: Offer) -> bool:
        """Whether the archive of a release is there, as long as was signed."""
        try:
            status = (self.updates / str(UpdateName(release.version))).stat()
        except OSError:
            return False
        return status.st_size == release.size

    def timestamp(self) -> Metadata[Timestamp] | None:
        """
        Give what the server wrote; None when it has written nothing yet.

        :raises ReleaseFailed: when it cannot be read.
        """
        path = self.folder / f"{Timestamp.type}.json"
        if not path.exists():
            return None
        return _parse(Timestamp, path, "the server with --timestamp-key writes it anew")[0]

    def age(self, document: Metadata[Any], now: datetime) -> timedelta:
        """
        Say for how long a numbered file has been there.

        :raises OSError: when it is gone.
        """
        status = self._path(document.signed.type, document.signed.version).stat()
        return now - datetime.fromtimestamp(status.st_mtime, UTC)

    def place(self, *documents: Metadata[Any]) -> None:
        """
        Write files in this order, each one on the disk before the next.

        :raises ReleaseFailed: when a number is taken.
        :raises OSError: when the disk is full or fails.
        """
        for document in documents:
            path = self._path(document.signed.type, document.signed.version)
            if os.path.lexists(path):
                raise ReleaseFailed(f"{path} is there already, and a number is never used twice.")
            files.write(path, document.to_bytes(), _READABLE_BY_ALL)

    def remove_superseded(self) -> None:
        """
        Remove old snapshots and targets, and keep the newest ones, and those that boxes follow.

        A box that looks up the metadata meanwhile may still read the ones before. While it is not
        known to what the timestamp leads, nothing is removed. Roots stay for ever.
        """
        with suppress(ReleaseFailed, OSError):
            timestamp = self.timestamp()
            snapshots = self.numbers(Snapshot.type)
            kept = set(snapshots[-KEPT:])
            if timestamp is not None:
                kept.add(timestamp.signed.snapshot_meta.version)
            targets = self.numbers(Targets.type)
            used = set(targets[-KEPT:]) | {self._targets_of(number) for number in kept}
            for role, numbers, needed in (
                (Snapshot.type, snapshots, kept),
                (Targets.type, targets, used),
            ):
                for number in numbers:
                    if number not in needed:
                        self._path(role, number).unlink(missing_ok=True)

    def _targets_of(self, snapshot: int) -> int | None:
        if not self._path(Snapshot.type, snapshot).exists():
            return None
        meta = self._read(Snapshot, snapshot)[0].signed.meta.get(_TARGETS_FILE)
        return None if meta is None else meta.version

    def _path(self, role: str, number: int) -> Path:
        return self.folder / f"{number}.{role}.json"

    def _read(self, kind: type[_T], number: int) -> tuple[Metadata[_T], bytes]:
        path = self._path(kind.type, number)
        document, data = _parse(kind, path, "restore it from a copy")
        if document.signed.version != number:
            raise ReleaseFailed(
                f"{path} holds version {document.signed.version}: restore it from a copy."
            )
        return document, data


def is_signed(root: Root, document: Metadata[Any]) -> bool:
    """Whether metadata has the signatures that a root asks for."""
    result = root.get_verification_result(
        document.signed.type, document.signed_bytes, document.signatures
    )
    return result.verified


def _parse(kind: type[Any], path: Path, remedy: str) -> tuple[Metadata[Any], bytes]:
    try:
        data = files.read(path, max_size(path.name))
        document = Metadata[Any].from_bytes(data)
        # Fails for what nobody can have signed, as fractions (canonical JSON).
        _ = document.signed_bytes
    except OSError as error:
        raise ReleaseFailed(f"{path} cannot be read ({error.strerror}): {remedy}.") from None
    except RepositoryError:
        raise ReleaseFailed(f"{path} is damaged: {remedy}.") from None
    if not isinstance(document.signed, kind):
        raise ReleaseFailed(f"{path} holds the metadata of another role: {remedy}.")
    if isinstance(document.signed, Root):
        try:
            require_own_ids(document.signed)
        except RepositoryError as error:
            raise ReleaseFailed(f"{path} is not to be trusted ({error}): {remedy}.") from None
    return document, data
