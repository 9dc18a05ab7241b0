"""The hash of a password, as it is written in a file."""

import base64
import binascii
import hashlib
import hmac
import re
import secrets

from attrs import frozen

#: The parameters of scrypt: log2(N), r and p, one of the sets that OWASP's Password Storage Cheat
#: Sheet recommends. One hash takes 16 MB and about a second on a Raspberry Pi.
_LN, _R, _P = 14, 8, 5

#: Bytes of the hash.
_LENGTH = 32

#: The limit of memory of one hash, in bytes.
_MAX_MEMORY = 64 * 1024**2

#: The limit of characters of a password.
MAX_PASSWORD = 1024

_HASH = re.compile(
    r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d)\$([A-Za-z0-9+/]{8,90})\$([A-Za-z0-9+/]{40,90})",
    re.ASCII,
)


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
        return cls(_LN, _R, _P, salt, _scrypt(password, _LN, _R, _P, salt, _LENGTH))

    @classmethod
    def of_nobody(cls) -> "PasswordHash":
        """Make a hash that no password matches; checking it takes as long as any other check."""
        return cls(_LN, _R, _P, secrets.token_bytes(16), secrets.token_bytes(_LENGTH))

    @classmethod
    def parse(cls, text: str) -> "PasswordHash | None":
        """Parse a PHC string; None if it is malformed, or there is no memory to check it."""
        match = _HASH.fullmatch(text)
        if match is not None:
            ln, r, p = (int(number) for number in match.groups()[:3])
            salt, digest = (_decode(part) for part in match.groups()[3:])
            # N is smaller than 2 to the power of 16 r (RFC 7914, section 6).
            is_possible = 0 < ln < 16 * r and p and 128 * r * 2**ln <= _MAX_MEMORY
            if is_possible and salt and digest:
                return cls(ln, r, p, salt, digest)
        return None

    def __str__(self) -> str:
        """Return the PHC string."""
        return (
            f"$scrypt$ln={self.ln},r={self.r},p={self.p}"
            f"${_encode(self.salt)}${_encode(self.digest)}"
        )

    def matches(self, password: str) -> bool:
        """Whether this is the hash of a password; the check is slow, and takes much memory."""
        digest = _scrypt(password, self.ln, self.r, self.p, self.salt, len(self.digest))
        return hmac.compare_digest(digest, self.digest)


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
