"""Reads the operators' file, and reads it again when it has changed."""

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from twisted.logger import Logger

from opq_twisted.common import files
from opq_twisted.common.errors import CannotStart
from opq_twisted.fleet.web.operators import MAX_FILE, Operator, OperatorsInvalid, parse

#: Shows whether a file has changed: device, inode, size, st_mtime and st_ctime. A copy may keep
#: st_mtime (cp -p), but nobody can set st_ctime.
_Identity = tuple[int, ...]


class OperatorsFile:
    """
    The operators of the last version of the file that had no mistake.

    If the file gets a mistake, the earlier operators stay valid, and the log names the mistake.
    """

    _log = Logger()

    def __init__(self, path: Path) -> None:
        """
        Read the file.

        :raises CannotStart: if it cannot be read, or has a mistake.
        """
        self._path = path
        self._identity = self._identify()
        #: Called after the operators have changed.
        self.observers: list[Callable[[], None]] = []
        try:
            self._operators = self._read()
        except OperatorsInvalid as error:
            raise CannotStart(str(error)) from None

    def operators(self) -> Mapping[str, Operator]:
        """Return the operators by name; read the file again if it has changed."""
        identity = self._identify()
        if identity != self._identity:
            self._identity = identity
            self._read_again()
        return self._operators

    def _read_again(self) -> None:
        try:
            operators = self._read()
        except OperatorsInvalid as error:
            self._log.error("{error} Until then, the earlier operators stay valid.", error=error)
            return
        self._log.info("Read {path}: {count} operators", path=self._path, count=len(operators))
        if operators != self._operators:
            self._operators = operators
            for observer in self.observers:
                observer()

    def _identify(self) -> _Identity | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _read(self) -> Mapping[str, Operator]:
        try:
            text = files.read(self._path, MAX_FILE).decode()
            mode = self._path.stat().st_mode
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "It is not UTF-8"
            raise OperatorsInvalid(
                f"The operators' file {self._path} cannot be read: {reason}. Make it with "
                "opq-fleet add-operator, and let the server's user read it."
            ) from None
        if mode & stat.S_IWOTH:
            raise OperatorsInvalid(
                f"Every user of this machine can write to the operators' file {self._path}, and "
                f"could become an operator: chmod o-rwx {self._path}"
            )
        if mode & stat.S_IROTH:
            self._log.warn(
                "Every user of this machine can read the hashes in {path}, and guess passwords: "
                "chmod o-rwx {path}",
                path=self._path,
            )
        try:
            return parse(text)
        except OperatorsInvalid as error:
            raise OperatorsInvalid(f"The operators' file {self._path}, {error}") from None
