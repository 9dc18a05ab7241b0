"""Asks for the password of the box's actions, where there is one."""

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

from opq_twisted.box.web.turns import Source, Turns
from opq_twisted.common.errors import ConfigInvalid

#: Two to this power is scrypt's N; with r and p it takes 16 MB for a second of a Raspberry Pi, as
#: OWASP's Password Storage Cheat Sheet has it.
_LN, _R, _P = 14, 8, 5

#: Bytes that one verification may take, and characters that are looked at.
_MAX_MEMORY = 64 * 1024**2
_MAX_PASSWORD = 1024

_HASH = re.compile(
    r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d)\$([A-Za-z0-9+/]{8,90})\$([A-Za-z0-9+/]{40,90})"
)

#: Seconds after a wrong password until the next is looked at.
_PAUSE = 1.0

InThread = Callable[..., Awaitable[Any]]


@frozen
class PasswordHash:
    """What is kept of a password, in the PHC string format."""

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
        """
        Read the file that `opq-box password` wrote.

        :raises ConfigInvalid: when it cannot be read, or holds something else.
        """
        try:
            with path.open("rb") as file:
                text = file.read(1024).decode("ascii", "replace").strip()
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
        """Word it as one line of text."""
        return (
            f"$scrypt$ln={self.ln},r={self.r},p={self.p}"
            f"${_encode(self.salt)}${_encode(self.digest)}"
        )

    def fits(self, password: str) -> bool:
        """Whether it is that of a password; that takes a part of a second, and much memory."""
        digest = _scrypt(password, self.ln, self.r, self.p, self.salt, len(self.digest))
        return hmac.compare_digest(digest, self.digest)


class Gate:
    """Lets through who knows the password; one guess at a time is looked at."""

    def __init__(
        self, clock: IReactorTime, password: PasswordHash, in_thread: InThread = deferToThread
    ) -> None:
        self._clock = clock
        self._password = password
        self._in_thread = in_thread
        self._turns = Turns()
        # What has been right once needs not be hashed again for each click.
        self._key = os.urandom(32)
        self._known: bytes | None = None

    async def admits(self, authorization: bytes | None, client: Source) -> bool:
        """
        Tell whether an Authorization header has the password (RFC 7617); any user name will do.

        :param client: who asks: an address, and the network that counts as well.
        :raises TooManyGuesses: when too many wait to be told.
        """
        password = _basic(authorization)
        if password is None:
            return False
        mark = hmac.digest(self._key, password.encode(), "sha256")
        if self._known is not None and hmac.compare_digest(mark, self._known):
            return True
        await self._turns.take(client)
        try:
            fits: bool = await self._in_thread(self._password.fits, password)
            if fits:
                self._known = mark
            else:
                await deferLater(self._clock, _PAUSE)
        except Exception:
            self._turns.give_back(client, failed=True)
            raise
        self._turns.give_back(client, failed=not fits)
        return fits


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
    """Read base64 without padding; nothing when it is none."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        return b""
