"""The updates directory as `opq-release` reads and writes it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from opq_twisted.archive.name import UpdateName
from opq_twisted.common import files
from opq_twisted.common.errors import ReleaseFailed
from opq_twisted.trust.offer import Offer
from opq_twisted.trust.repository_reader import (
    KEPT,
    MAX_VERSION,
    TIMESTAMP_FILE,
    Damaged,
    Document,
    MetadataSet,
    RepositoryReader,
    Unusable,
)

#: More versions than interruptions can have used up since the newest valid file.
_MAX_UNUSED = 1000


class Repository:
    """
    One updates directory.

    A numbered file is written once and never changed. The order is archive, targets, snapshot,
    root, so that a copy that is made meanwhile never names a file that it lacks.
    """

    def __init__(self, updates: Path) -> None:
        self.updates = updates
        self._reader = RepositoryReader(updates)
        #: The folder of the signed metadata.
        self.folder = self._reader.folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """
        Keep other processes from writing at the same time.

        :raises ReleaseFailed: if another process is writing, or the directory cannot be written to.
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
        """
        List the versions of a role, the oldest first.

        :raises ReleaseFailed: if the folder holds far too many files.
        :raises OSError: if the folder cannot be read.
        """
        try:
            return self._reader.versions(role)[::-1]
        except Unusable as error:
            raise ReleaseFailed(
                f"{error}: they are not all yours, restore it from a copy."
            ) from None

    def next_number(self, role: str, current: int) -> int:
        """
        Return a version for a new file, higher than any that was used, even by an interrupted run.

        :param current: the newest valid version; 0 if there is none.
        :raises ReleaseFailed: if a file has a version that is far too high.
        """
        highest = max(self.numbers(role), default=0)
        if highest >= min(current + _MAX_UNUSED, MAX_VERSION):
            raise ReleaseFailed(
                f"{self.folder}/{highest}.{role}.json is far ahead of {current}, the newest signed "
                "version: it is not one of yours, take it away."
            )
        return highest + 1

    def roots(self) -> list[Metadata[Root]]:
        """
        Read all roots, from the first on. Boxes may be unable to follow them.

        :raises ReleaseFailed: if there is none, or one is missing or damaged.
        """
        numbers = self.numbers(Root.type)
        if not numbers:
            raise ReleaseFailed(
                f"{self.folder} holds no root: run opq-release init, or name another directory "
                "with --updates-dir."
            )
        with self._explained():
            return [
                self._reader.read(Root, number).metadata
                for number in range(numbers[0], numbers[-1] + 1)
            ]

    def current(self, root: Root) -> MetadataSet:
        """
        Read the newest complete metadata set that is signed as this root requires.

        :raises ReleaseFailed: if there is none, or a newer file is damaged.
        """
        with self._explained():
            for number in self.numbers(Snapshot.type)[: -_MAX_UNUSED - 1 : -1]:
                try:
                    return self._reader.read_set(root, number)
                except Damaged:
                    raise
                except Unusable:
                    continue  # an interrupted run left it behind, or it is signed by other keys
        raise ReleaseFailed(
            f"{self.folder} holds no snapshot that root {root.version} accepts: restore it from a "
            "copy."
        )

    def holds(self, release: Offer) -> bool:
        """Whether the archive of a release is there, with the signed length."""
        try:
            status = (self.updates / str(UpdateName(release.version))).stat()
        except OSError:
            return False
        return status.st_size == release.size

    def timestamp(self) -> Metadata[Timestamp] | None:
        """
        Read the timestamp that the server wrote; None if it has written none yet.

        :raises ReleaseFailed: if it cannot be read.
        """
        if not (self.folder / TIMESTAMP_FILE).exists():
            return None
        with self._explained("the server with --timestamp-key writes it again"):
            return self._reader.read_timestamp().metadata

    def announced(self, root: Root) -> MetadataSet | None:
        """
        Read the metadata set that the timestamp names; None if there is no timestamp.

        :raises ReleaseFailed: if it cannot be read, or this root does not accept it.
        """
        timestamp = self.timestamp()
        if timestamp is None:
            return None
        with self._explained():
            return self._reader.read_set(root, timestamp.signed.snapshot_meta.version)

    def place(self, *documents: Document[Any]) -> None:
        """
        Write files in this order, each one to the disk before the next.

        :raises ReleaseFailed: if a version is taken.
        :raises OSError: if the disk is full or fails.
        """
        for document in documents:
            path = self.folder / document.name
            if os.path.lexists(path):
                raise ReleaseFailed(f"{path} is there already, and a number is never used twice.")
            files.write(path, document.data, files.READABLE_BY_ALL)

    def remove_superseded(self) -> None:
        """
        Remove old snapshots and targets, except the newest ones and those that boxes follow.

        A box that looks up the metadata meanwhile may still read the previous ones. While the
        timestamp cannot be read, nothing is removed. Roots stay for ever.
        """
        with suppress(ReleaseFailed, Unusable, OSError):
            timestamp = self.timestamp()
            snapshots = self.numbers(Snapshot.type)
            kept = set(snapshots[-KEPT:])
            if timestamp is not None:
                kept.add(timestamp.signed.snapshot_meta.version)
            targets = self.numbers(Targets.type)
            used = set(targets[-KEPT:]) | {self._targets_of(each) for each in kept & {*snapshots}}
            for role, numbers, needed in (
                (Snapshot.type, snapshots, kept),
                (Targets.type, targets, used),
            ):
                for number in numbers:
                    if number not in needed:
                        (self.folder / f"{number}.{role}.json").unlink(missing_ok=True)

    def _targets_of(self, snapshot: int) -> int | None:
        meta = self._reader.read(Snapshot, snapshot).signed.meta.get(f"{Targets.type}.json")
        return None if meta is None else meta.version

    @contextmanager
    def _explained(self, remedy: str = "restore it from a copy") -> Iterator[None]:
        """Turn `Unusable` into an error with the path of the file and a remedy."""
        try:
            yield
        except Unusable as error:
            raise ReleaseFailed(f"{self.folder}/{error}: {remedy}.") from None
