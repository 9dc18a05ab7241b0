"""HTTP basic authentication for the box's actions, if a password is configured."""

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from opq_twisted.box.web.password_queue import ClientKey, PasswordCheckQueue
from opq_twisted.common.errors import ConfigInvalid

#: The parameters of scrypt: log2(N), r and p, one of the sets that OWASP's Password Storage Cheat
#: Sheet recommends. One hash takes 16 MB and about a second on a Raspberry Pi.
_LN, _R, _P = 14, 8, 5

#: Bytes that one hash may take, and characters of a password.
_MAX_MEMORY = 64 * 1024**2
_MAX_PASSWORD = 1024

_HASH = re.compile(
    r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d)\$([A-Za-z0-9+/]{8,90})\$([A-Za-z0-9+/]{40,90})"
)

#: Seconds from a wrong password to the next check.
_FAILURE_DELAY = 1.0

InThread = Callable[..., Awaitable[Any]]


@frozen
class PasswordHash:
    """The scrypt hash of a password, written in the PHC string format."""

    ln: int
    r: int
    p: int
    salt: bytes
    digest: bytes

    @classmethod
    def of(cls, password: str) -> "PasswordHash":
        """Hash a new password."""
        salt = secrets.token_bytes(16)
        return cls(_LN, _R, _P, salt, _scrypt(password, _LN, _R, _P, salt, 32))

    @classmethod
    def read(cls, path: Path) -> "PasswordHash":
        """Read the file of `opq-box password`; raises ConfigInvalid if it cannot be used."""
        try:
            with path.open("rb") as file:
                text = file.read(1024).decode("ascii", "replace").strip()
        except PermissionError as error:
            raise ConfigInvalid(
                f"The password file {path} cannot be read: {error.strerror}. Run the command as "
                "root."
            ) from None
        except OSError as error:
            raise ConfigInvalid(
                f"The password file {path} cannot be read: {error.strerror}. Make one with opq-box "
                "password, or take web_password_file out of the configuration."
            ) from None
        match = _HASH.fullmatch(text)
        if match is not None:
            ln, r, p = (int(number) for number in match.groups()[:3])
            salt, digest = (_decode(part) for part in match.groups()[3:])
            if ln and r and p and salt and digest and 128 * r * 2**ln <= _MAX_MEMORY:
                return cls(ln, r, p, salt, digest)
        raise ConfigInvalid(
            f"The password file {path} holds no password that this agent understands: make one "
            "with opq-box password."
        )

    def __str__(self) -> str:
        """Return the PHC string."""
        return (
            f"$scrypt$ln={self.ln},r={self.r},p={self.p}"
            f"${_encode(self.salt)}${_encode(self.digest)}"
        )

    def matches(self, password: str) -> bool:
        """Tell whether this is the hash of a password; slow, and takes much memory."""
        digest = _scrypt(password, self.ln, self.r, self.p, self.salt, len(self.digest))
        return hmac.compare_digest(digest, self.digest)


class BasicAuth:
    """Checks the password of a request (RFC 7617); passwords are checked one at a time."""

    def __init__(
        self, clock: IReactorTime, password: PasswordHash, in_thread: InThread = deferToThread
    ) -> None:
        self._clock = clock
        self._password = password
        self._in_thread = in_thread
        self._queue = PasswordCheckQueue()
        # A password that was right once is compared by a fast digest, and not hashed at each click.
        self._key = os.urandom(32)
        self._known_digest: bytes | None = None

    async def check(self, authorization: bytes | None, client: ClientKey) -> bool:
        """
        Tell whether an Authorization header has the right password, with any user name.

        :raises TooManyAttempts: if too many checks are waiting.
        """
        password = _basic(authorization)
        if password is None:
            return False
        digest = hmac.digest(self._key, password.encode(), "sha256")
        if self._known_digest is not None and hmac.compare_digest(digest, self._known_digest):
            return True
        await self._queue.acquire(client)
        try:
            matches: bool = await self._in_thread(self._password.matches, password)
            if matches:
                self._known_digest = digest
            else:
                await deferLater(self._clock, _FAILURE_DELAY)
        except Exception:
            self._queue.release(client, failed=True)
            raise
        self._queue.release(client, failed=not matches)
        return matches


def _basic(authorization: bytes | None) -> str | None:
    scheme, _, value = (authorization or b"").partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        pair = base64.b64decode(value.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    _, colon, password = pair.partition(":")
    return password if colon and len(password) <= _MAX_PASSWORD else None


def _scrypt(password: str, ln: int, r: int, p: int, salt: bytes, length: int) -> bytes:
    return hashlib.scrypt(
        password.encode(), salt=salt, n=2**ln, r=r, p=p, dklen=length, maxmem=2 * _MAX_MEMORY
    )


def _encode(data: bytes) -> str:
    return base64.b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """Decode base64 without padding; return nothing if it is malformed."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        return b""
