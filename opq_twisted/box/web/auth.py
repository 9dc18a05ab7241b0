"""HTTP basic authentication for the box's actions, if a password is configured."""

from pathlib import Path

from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThread

from opq_twisted.common import files
from opq_twisted.common.errors import ConfigInvalid
from opq_twisted.http.guards.password import PasswordHash
from opq_twisted.http.guards.password_check import InThread, PasswordCheck, read_credentials
from opq_twisted.http.guards.password_queue import ClientKey


def read_password_hash(path: Path) -> PasswordHash:
    """Read the file of `opq-box password`; raises ConfigInvalid if it cannot be used."""
    try:
        with files.open_regular(path) as file:
            text = file.read(1024).decode("ascii", "replace").strip()
    except PermissionError as error:
        raise ConfigInvalid(
            f"The password file {path} cannot be read: {error.strerror}. Run the command as root."
        ) from None
    except OSError as error:
        raise ConfigInvalid(
            f"The password file {path} cannot be read: {error.strerror}. Make one with opq-box "
            "password, or take web_password_file out of the configuration."
        ) from None
    hashed = PasswordHash.parse(text)
    if hashed is None:
        raise ConfigInvalid(
            f"The password file {path} holds no password that this agent understands: make one "
            "with opq-box password."
        )
    return hashed


class BasicAuth:
    """Checks the password of a request (RFC 7617)."""

    def __init__(
        self, clock: IReactorTime, password: PasswordHash, in_thread: InThread = deferToThread
    ) -> None:
        self._password = password
        self._check = PasswordCheck(clock, in_thread)

    async def check(self, authorization: bytes | None, client: ClientKey) -> bool:
        """
        Tell whether an Authorization header has the right password, with any user name.

        :raises TooManyAttempts: if too many checks are waiting.
        """
        given = read_credentials(authorization)
        return given is not None and await self._check.matches(
            given.password, self._password, client
        )
