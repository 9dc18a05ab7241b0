"""Checks the passwords of HTTP basic authentication (RFC 7617), one at a time."""

import base64
import binascii
import hmac
import os
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from opq_twisted.http.guards.password import MAX_PASSWORD, PasswordHash
from opq_twisted.http.guards.password_queue import ClientKey, PasswordCheckQueue

#: Seconds from a wrong password to the next check.
_FAILURE_DELAY = 1.0

InThread = Callable[..., Awaitable[Any]]


@frozen
class Credentials:
    """A user name and a password, as a client sends them."""

    user: str
    password: str


def read_credentials(authorization: bytes | None) -> Credentials | None:
    """Read an Authorization header; None if it has no user name and password."""
    scheme, _, value = (authorization or b"").partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        pair = base64.b64decode(value.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    user, colon, password = pair.partition(":")
    return Credentials(user, password) if colon and len(password) <= MAX_PASSWORD else None


class PasswordCheck:
    """
    Compares passwords with hashes.

    After a password was found correct, it is compared by a fast digest instead of the slow hash.
    """

    def __init__(self, clock: IReactorTime, in_thread: InThread = deferToThread) -> None:
        self._clock = clock
        self._in_thread = in_thread
        self._queue = PasswordCheckQueue()
        self._key = os.urandom(32)
        self._known: dict[PasswordHash, bytes] = {}

    async def matches(self, password: str, hashed: PasswordHash, client: ClientKey) -> bool:
        """
        Whether a hash is that of a password.

        :raises TooManyAttempts: if too many checks are waiting.
        """
        digest = hmac.digest(self._key, password.encode(), "sha256")
        known = self._known.get(hashed)
        if known is not None and hmac.compare_digest(digest, known):
            return True
        await self._queue.acquire(client)
        try:
            matches: bool = await self._in_thread(hashed.matches, password)
            if matches:
                self._known[hashed] = digest
            else:
                await deferLater(self._clock, _FAILURE_DELAY)
        except Exception:
            self._queue.release(client, failed=True)
            raise
        self._queue.release(client, failed=not matches)
        return matches

    def forget_others(self, hashes: Collection[PasswordHash]) -> None:
        """Forget the passwords of all hashes but these."""
        self._known = {each: digest for each, digest in self._known.items() if each in hashes}
