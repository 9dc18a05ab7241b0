"""The catalog: the archives on offer, as an immutable snapshot of the updates directory."""

import os
import time
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path

from attrs import frozen
from twisted.logger import Logger

from opq_twisted.archive.name import UpdateName
from opq_twisted.common.errors import MACHINE_BUSY, InvalidName
from opq_twisted.server.catalog.updates_file import Archive, NotOffered, identify, inspect

#: Only so many refused files are searched for names of updates.
_MAX_REFUSED = 200


@frozen
class Snapshot:
    """The archives on offer at one moment, the oldest version first."""

    archives: tuple[Archive, ...] = ()

    @property
    def newest(self) -> Archive | None:
        """The archive with the highest version."""
        return self.archives[-1] if self.archives else None

    def find(self, name: str) -> Archive | None:
        """Find the archive with this name, if it is on offer."""
        try:
            version = UpdateName.parse(name).version
        except InvalidName:
            return None
        index = bisect_left(self.archives, version, key=_version)
        found = self.archives[index : index + 1]
        return found[0] if found and _version(found[0]) == version else None

    def latest(self, count: int, before: int | None = None) -> tuple[Archive, ...]:
        """Give the newest `count` archives before a version, the newest first."""
        end = len(self.archives)
        if before is not None:
            end = bisect_left(self.archives, before, key=_version)
        return self.archives[max(end - count, 0) : end][::-1]

    def replace(self, changes: Mapping[str, Archive | None]) -> "Snapshot":
        """
        Make a snapshot with these archives changed, by name; None removes an archive.

        Changing one of many thousands costs no more than copying a list.
        """
        archives = list(self.archives)
        for name, archive in changes.items():
            before = self.find(name)
            if before is not None:
                archives.pop(bisect_left(archives, _version(before), key=_version))
            if archive is not None:
                insort(archives, archive, key=_version)
        return Snapshot(tuple(archives))


def _version(archive: Archive) -> int:
    return archive.name.version


@frozen
class Scan:
    """The result of reading the whole directory: archives, and reasons for refusal, by name."""

    archives: Mapping[str, Archive]
    refused: Mapping[str, str]


class Catalog:
    """
    Keeps the snapshot of one directory.

    A change replaces `snapshot` in a single assignment, so no reader gets a mixture of two states.
    """

    _log = Logger()

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        #: The archives on offer.
        self.snapshot = Snapshot()
        #: A sentence that says why the directory cannot be read; None while it can.
        self.problem: str | None = None
        #: The time of the last change (seconds since the epoch); None before the first.
        self.changed: float | None = None
        #: Called with the new snapshot after each change.
        self.observers: list[Callable[[Snapshot], None]] = []
        self._refused: dict[str, str] = {}

    def check(self, names: Iterable[str]) -> None:
        """
        Check only the files with these names, because they may have changed.

        While the directory cannot be read, the known archives stay on offer. A missing directory
        usually comes back; its archives were not withdrawn.
        """
        try:
            changes = self._inspect(names)
        except OSError as error:
            self.directory_lost(error)
        else:
            self._publish(self.snapshot.replace(changes))

    def scan(self) -> Scan:
        """
        Read the whole directory, but open only files that are new or changed; thread-safe.

        :raises OSError: if the directory cannot be read.
        """
        known = {str(archive.name): archive for archive in self.snapshot.archives}
        archives: dict[str, Archive] = {}
        refused: dict[str, str] = {}
        with os.scandir(_inside(self.directory)) as entries:
            for entry in entries:
                name, before = entry.name, known.get(entry.name)
                try:
                    status = entry.stat(follow_symlinks=False)
                    if before is not None and identify(status) == before.identity:
                        archives[name] = before
                    else:
                        archives[name] = inspect(self.directory, name)
                except NotOffered as reason:
                    refused[name] = str(reason)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if error.errno not in MACHINE_BUSY:
                        raise
                    if before is not None:
                        archives[name] = before
        return Scan(archives, refused)

    def apply(self, scan: Scan, touched: Iterable[str] = ()) -> None:
        """Publish the result of `scan`; check the names again that were touched during it."""
        try:
            changes = self._inspect(touched)
        except OSError as error:
            self.directory_lost(error)
            return
        for name, reason in scan.refused.items():
            self._refuse(name, reason)
        self._refused = dict(scan.refused)
        self.problem = None
        archives = sorted(scan.archives.values(), key=_version)
        self._publish(Snapshot(tuple(archives)).replace(changes))

    def directory_lost(self, error: OSError) -> None:
        """Report that the directory cannot be read; the known archives stay on offer."""
        problem = f"Cannot read the updates directory {self.directory}: {error.strerror}."
        if problem != self.problem:
            self._log.error("{problem}", problem=problem)
        self.problem = problem

    def rescan(self) -> None:
        """Read the whole directory now."""
        try:
            scan = self.scan()
        except OSError as error:
            self.directory_lost(error)
        else:
            self.apply(scan)

    def refused_updates(self) -> Iterator[tuple[str, str]]:
        """Yield files with the name of an update that are not on offer, and the reasons."""
        # Anything may be in the directory, and readers of the list ask often.
        for name, reason in islice(self._refused.items(), _MAX_REFUSED):
            with suppress(InvalidName):
                yield str(UpdateName.parse(name)), reason

    def _inspect(self, names: Iterable[str]) -> dict[str, Archive | None]:
        """
        Check these names; the result is None for a file that is not on offer.

        A name is left out of the result if the machine cannot check it now.

        :raises OSError: if the directory cannot be read.
        """
        check_readable(self.directory)
        found: dict[str, Archive | None] = {}
        for name in names:
            try:
                found[name] = inspect(self.directory, name)
                self._refused.pop(name, None)
            except NotOffered as reason:
                found[name] = None
                self._refuse(name, str(reason))
            except FileNotFoundError:
                found[name] = None
                self._refused.pop(name, None)
            except OSError as error:
                self._log.error("Cannot check {name!r} now: {error}", name=name, error=error)
        return found

    def _publish(self, snapshot: Snapshot) -> None:
        if snapshot == self.snapshot:
            return
        self.snapshot = snapshot
        self.changed = time.time()
        for observer in self.observers:
            with self._log.failuresHandled("{observer} failed", observer=observer):
                observer(snapshot)

    def _refuse(self, name: str, reason: str) -> None:
        if self._refused.get(name) != reason:
            self._log.warn("{name!r} is not offered: {reason}", name=name, reason=reason)
        self._refused[name] = reason


def check_readable(directory: Path) -> None:
    """Raise `OSError` unless a directory can be listed, and its files can be opened."""
    os.scandir(_inside(directory)).close()


def _inside(directory: Path) -> str:
    """Give a path that can be opened only with permission to reach the directory's files."""
    return f"{directory}/."
