"""The signed metadata beside the archives, on the disk."""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from opq_twisted import durable
from opq_twisted.errors import ReleaseFailed
from opq_twisted.release.trust import METADATA

_NUMBERED = re.compile(r"([1-9][0-9]{0,14})\.(root|targets|snapshot)\.json", re.ASCII)


@frozen
class Generation:
    """Metadata that belongs together; boxes see it once a timestamp names its snapshot."""

    root: Metadata[Root]
    targets: Metadata[Targets]
    snapshot: Metadata[Snapshot]


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
            self.folder.mkdir(exist_ok=True)
            fd = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ReleaseFailed(f"Cannot write in {self.folder}: {error.strerror}.") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise ReleaseFailed(
                f"Another opq-release works in {self.folder}: wait until it has ended."
            ) from None
        finally:
            os.close(fd)

    def numbers(self, role: str) -> list[int]:
        """Give the numbers of a role's files, in order."""
        matches = map(_NUMBERED.fullmatch, self._names())
        return sorted(int(match[1]) for match in matches if match and match[2] == role)

    def next_number(self, role: str) -> int:
        """Give the number of a role's next file: one that was never used, even in vain."""
        return max(self.numbers(role), default=0) + 1

    def _names(self) -> list[str]:
        try:
            return os.listdir(self.folder)
        except FileNotFoundError:
            return []

    def read(self, role: str, number: int) -> bytes:
        """
        Read a numbered file.

        :raises ReleaseFailed: when it is not there.
        """
        path = self.folder / f"{number}.{role}.json"
        try:
            return path.read_bytes()
        except OSError as error:
            raise ReleaseFailed(
                f"{path} cannot be read ({error.strerror}): restore it from a copy."
            ) from None

    def roots(self) -> list[Metadata[Root]]:
        """
        Give all roots, from the first on.

        :raises ReleaseFailed: when there is none, or one is missing or damaged.
        """
        numbers = self.numbers(Root.type)
        if not numbers:
            raise ReleaseFailed(
                f"{self.folder} holds no root: run opq-release init, or name another directory "
                "with --updates-dir."
            )
        return [self._parse(Root.type, number) for number in range(numbers[0], numbers[-1] + 1)]

    def current(self) -> Generation:
        """
        Give the newest snapshot that is whole and signed, with its targets.

        :raises ReleaseFailed: when there is none.
        """
        root = self.roots()[-1]
        for number in reversed(self.numbers(Snapshot.type)):
            snapshot = self._parse(Snapshot.type, number)
            version = snapshot.signed.meta["targets.json"].version
            if version not in self.numbers(Targets.type):
                continue
            targets = self._parse(Targets.type, version)
            if is_signed(root.signed, snapshot) and is_signed(root.signed, targets):
                return Generation(root, targets, snapshot)
        raise ReleaseFailed(
            f"{self.folder} holds no snapshot that its root accepts: restore it from a copy."
        )

    def latest(self) -> Generation:
        """
        Give the newest snapshot and its targets, whoever signed them.

        :raises ReleaseFailed: when there is none.
        """
        root = self.roots()[-1]
        for number in reversed(self.numbers(Snapshot.type)):
            snapshot = self._parse(Snapshot.type, number)
            version = snapshot.signed.meta["targets.json"].version
            if version in self.numbers(Targets.type):
                return Generation(root, self._parse(Targets.type, version), snapshot)
        raise ReleaseFailed(f"{self.folder} holds no snapshot: restore it from a copy.")

    def timestamp(self) -> Metadata[Timestamp] | None:
        """Give what the server wrote; None when it has written nothing that can be read."""
        try:
            return Metadata[Timestamp].from_bytes((self.folder / "timestamp.json").read_bytes())
        except (OSError, RepositoryError):
            return None

    def place(self, *documents: Metadata[Any]) -> None:
        """
        Write files in this order, each one on the disk before the next.

        :raises OSError: when the disk is full or fails.
        """
        for document in documents:
            name = f"{document.signed.version}.{document.signed.type}.json"
            durable.write(self.folder / name, document.to_bytes())

    def _parse(self, role: str, number: int) -> Metadata[Any]:
        try:
            return Metadata.from_bytes(self.read(role, number))
        except RepositoryError:
            raise ReleaseFailed(
                f"{self.folder}/{number}.{role}.json is damaged: restore it from a copy."
            ) from None


def is_signed(root: Root, document: Metadata[Any]) -> bool:
    """Whether metadata has the signatures that a root asks for."""
    result = root.get_verification_result(
        document.signed.type, document.signed_bytes, document.signatures
    )
    return result.verified
