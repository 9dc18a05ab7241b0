"""Listens on the Unix socket of the fleet, or explains in a sentence why it cannot."""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.web.server import Site

from opq_twisted.common.errors import CannotStart
from opq_twisted.http.endpoints import remove_dead_socket

#: Bytes of the path of a Unix socket (unix(7)), without the final zero.
_MAX_PATH = 107

#: The server's user and the members of the group of the socket may connect.
_MODE = 0o660

_HINT = "or name another one with --fleet-socket"


class SocketListener(Service):
    """Serves a site on a Unix socket; a socket that a dead server left is replaced."""

    _log = Logger()

    def __init__(self, reactor: Any, path: Path, site: Site) -> None:
        """:raises CannotStart: if the path is too long."""
        self._reactor = reactor
        self._path = os.fspath(path)
        self._site = site
        self._port: IListeningPort | None = None
        size = len(os.fsencode(path))
        if size > _MAX_PATH:
            raise CannotStart(
                f"--fleet-socket {path}: the path of a socket has at most {_MAX_PATH} bytes, and "
                f"this one has {size}. Name a shorter one."
            )

    def startService(self) -> None:
        """Listen; raise `CannotStart` if that is impossible."""
        super().startService()
        remove_dead_socket(self._path)
        try:
            self._port = self._reactor.listenUNIX(self._path, self._site, mode=_MODE)
        except CannotListenError as error:
            raise CannotStart(self._explain(error.socketError)) from None
        self._log.info("The socket of opq-fleet is {path}", path=self._path)

    def stopService(self) -> Deferred[None]:
        """Stop listening, and remove the socket."""
        super().stopService()
        port, self._port = self._port, None
        return Deferred.fromCoroutine(_stop(port))

    def _explain(self, error: object) -> str:
        number = getattr(error, "errno", None)
        folder = os.path.dirname(self._path)
        if number == errno.ENOENT:
            return f"The folder {folder} of the fleet's socket is missing: create it, {_HINT}."
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            return (
                f"The fleet's socket cannot be created in {folder}: {os.strerror(number)}. Let the "
                f"server's user write there, {_HINT}."
            )
        if number == errno.EADDRINUSE and not _is_socket(self._path):
            return f"{self._path} is not a socket: remove it, {_HINT}."
        if number == errno.EADDRINUSE:
            return f"Another program uses {self._path}: stop it, {_HINT}."
        return f"The fleet's socket {self._path} cannot be created: {error}. Fix that, {_HINT}."


def _is_socket(path: str) -> bool:
    with suppress(OSError):
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    return True


async def _stop(port: IListeningPort | None) -> None:
    # Somebody may have removed the socket already.
    with suppress(FileNotFoundError):
        if port is not None:
            await (port.stopListening() or succeed(None))
