"""Sends signed releases to a server, and waits until the server has announced them."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from attrs import frozen
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Root, Snapshot, TargetFile, Targets

from opq_twisted.archive.name import UpdateName
from opq_twisted.common import files
from opq_twisted.common.errors import InvalidName, ReleaseFailed
from opq_twisted.signing.repository import Repository
from opq_twisted.signing.rsync import Destination
from opq_twisted.trust.repository_reader import (
    TIMESTAMP_FILE,
    Document,
    MetadataSet,
    RepositoryReader,
    Unusable,
    is_signed,
)

#: A server may take so many seconds to announce the pushed release.
TIMEOUT = 120.0

#: Seconds between the first two requests to the server, and the longest pause between any two.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0


@frozen
class Push:
    """
    One upload to one server.

    The server's timestamp is read from its directory, in the same way as the files are sent. It is
    the server's own file, so it is never sent.
    """

    repository: Repository
    destination: Destination
    now: Callable[[], datetime]
    #: Seconds of a clock that only goes forward.
    monotonic: Callable[[], float]
    sleep: Callable[[float], object]

    def current(self) -> MetadataSet:
        """Read the newest metadata set of this copy; raise `ReleaseFailed` if there is none."""
        return self.repository.current(self.repository.roots()[-1].signed)

    def check(self, current: MetadataSet) -> str | None:
        """
        Compare the server with the newest metadata set of this copy of its directory.

        :returns: None if the server has announced it; otherwise the reason, as a clause about the
            server.
        :raises ReleaseFailed: if the server has metadata that this copy lacks, or cannot be
            reached.
        """
        root, newest = current.root, current.snapshot
        next_root = f"{root.version + 1}.{Root.type}.json"
        with self.destination.fetched((TIMESTAMP_FILE, newest.name, next_root)) as folder:
            there = RepositoryReader(folder)
            with suppress(Unusable):
                if is_signed(root, there.read(Root, root.version + 1).metadata):
                    raise self._conflict(f"root {root.version + 1}", f"root {root.version}")
            with suppress(Unusable):
                other = there.read(Snapshot, newest.version)
                if is_signed(root, other.metadata) and other.data != newest.data:
                    raise self._other_snapshot(current)
            if not (there.folder / TIMESTAMP_FILE).exists():
                return "has no timestamp"
            try:
                timestamp = there.read_timestamp()
            except Unusable:
                return "has a damaged timestamp"
        if not is_signed(root, timestamp.metadata):
            return f"has a timestamp that is not signed by the key that root {root.version} names"
        meta = timestamp.signed.snapshot_meta
        if meta.version > newest.version:
            raise self._conflict(f"snapshot {meta.version}", f"snapshot {newest.version}")
        if meta.version < newest.version:
            return f"still announces snapshot {meta.version}"
        try:
            meta.verify_length_and_hashes(newest.data)
        except RepositoryError:
            raise self._other_snapshot(current) from None
        if timestamp.signed.is_expired(self.now()):
            return "has a timestamp that has expired"
        self._keep(timestamp.data)
        return None

    def _other_snapshot(self, current: MetadataSet) -> ReleaseFailed:
        return self._conflict(f"another snapshot {current.snapshot.version}", "its own")

    def _conflict(self, theirs: str, ours: str) -> ReleaseFailed:
        return ReleaseFailed(
            f"{self.destination.name} has {theirs}, and {self.repository.updates} has {ours}: "
            "somebody has signed in another copy of the directory. Copy tuf/ and the archives from "
            "there to here, and make your change again."
        )

    def _keep(self, timestamp: bytes) -> None:
        """Store the timestamp in this copy, for `status` and for the removal of old metadata."""
        path = self.repository.folder / TIMESTAMP_FILE
        if not path.exists() or path.read_bytes() != timestamp:
            files.write(path, timestamp, files.READABLE_BY_ALL)

    def send(self) -> MetadataSet:
        """
        Copy the signed archives that are here to the server, and after them the metadata.

        :returns: the newest metadata set.
        :raises ReleaseFailed: if that fails, the server has metadata that this copy lacks, or an
            archive has another size than the signed one.
        """
        with self.repository.locked():
            current = self.current()
            self.check(current)
            self.destination.send(list(self._signed_archives(current)))
            # Again, because large archives take their time.
            self.check(current)
            # In this order no file leads to one that is missing, and the server logs no warning.
            for role in (Targets.type, Snapshot.type, Root.type):
                self.destination.send(self._metadata(role), "tuf/")
        return current

    def _signed_archives(self, current: MetadataSet) -> Iterator[Path]:
        for name, target in _archives(current.targets):
            path = self.repository.updates / name
            if path.exists():
                size = path.stat().st_size
                if size != target.length:
                    raise ReleaseFailed(
                        f"{path} has {size} bytes, and {target.length} were signed: put back the "
                        "one that was published."
                    )
                yield path

    def _metadata(self, role: str) -> list[Path]:
        numbers = self.repository.numbers(role)
        return [self.repository.folder / f"{number}.{role}.json" for number in numbers]

    def wait(self, current: MetadataSet) -> None:
        """
        Wait until the server has announced a metadata set.

        :raises ReleaseFailed: if it has not after `TIMEOUT` seconds.
        """
        end, pause = self.monotonic() + TIMEOUT, _FIRST_PAUSE
        while (reason := self.check(current)) is not None:
            if self.monotonic() >= end:
                raise ReleaseFailed(
                    f"Everything is sent, but after {TIMEOUT:.0f} seconds the server {reason}, so "
                    "boxes do not see the change: see whether it runs for this directory with "
                    "--timestamp-key, and what its log says; opq-release push "
                    f"{self.destination.name} waits again."
                )
            self.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def remove_old(self, current: MetadataSet) -> list[str]:
        """
        Remove archives that were signed earlier and are no longer, from the server and from here.

        Call this when the server has announced this metadata set: then no channel leads to them.

        :returns: the names of those that were on the server.
        :raises ReleaseFailed: if they cannot be removed there.
        :raises OSError: if they cannot be removed here.
        """
        roots = self.repository.roots()
        reader = RepositoryReader(self.repository.updates)
        earlier: set[str] = set()
        for number in self.repository.numbers(Targets.type):
            with suppress(Unusable):
                targets = reader.read(Targets, number)
                if any(is_signed(root.signed, targets.metadata) for root in roots):
                    earlier.update(name for name, _ in _archives(targets))
        old = sorted(earlier.difference(name for name, _ in _archives(current.targets)))
        removed = self.destination.remove(old)
        for name in old:
            (self.repository.updates / name).unlink(missing_ok=True)
        return removed


def _archives(targets: Document[Targets]) -> Iterator[tuple[str, TargetFile]]:
    for name, target in targets.signed.targets.items():
        with suppress(InvalidName):
            yield str(UpdateName.parse(name)), target
