"""Encrypts a private key with a passphrase: PKCS #8 PEM, scrypt and AES-256-CBC."""

import base64
import os
import textwrap

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

#: The cost of guessing once: 128 MiB of memory and about 0.3 s. It is the first choice of OWASP's
#: Password Storage Cheat Sheet.
COST, BLOCK_SIZE, PARALLELISM = 1 << 17, 8, 1

_SALT_SIZE, _KEY_SIZE = 16, 32
_BEGIN, _END = (f"-----{word} ENCRYPTED PRIVATE KEY-----" for word in ("BEGIN", "END"))

_INTEGER, _OCTETS, _OBJECT_ID, _SEQUENCE = 0x02, 0x04, 0x06, 0x30

# RFC 8018, appendix A.4 and B.2.5; RFC 7914, section 7.1.
_PBES2 = bytes.fromhex("2a864886f70d01050d")
_AES_256_CBC = bytes.fromhex("60864801650304012a")
_SCRYPT = bytes.fromhex("2b06010401da47040b")


def encrypt(private: PrivateKeyTypes, passphrase: bytes) -> bytes:
    """
    Return the PEM file of a private key.

    The `cryptography` package can read this format, but writes only PBKDF2 with 2,048 rounds. The
    `openssl` command reads it only up to a cost of 2**14, because it allows scrypt 32 MiB.
    """
    salt, iv = os.urandom(_SALT_SIZE), os.urandom(AES.block_size // 8)
    derived = Scrypt(salt, _KEY_SIZE, COST, BLOCK_SIZE, PARALLELISM).derive(passphrase)
    cost = _sequence(_element(_OCTETS, salt), *map(_integer, (COST, BLOCK_SIZE, PARALLELISM)))
    scheme = _sequence(
        _sequence(_element(_OBJECT_ID, _SCRYPT), cost),
        _sequence(_element(_OBJECT_ID, _AES_256_CBC), _element(_OCTETS, iv)),
    )
    plain = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return _pem(
        _sequence(
            _sequence(_element(_OBJECT_ID, _PBES2), scheme),
            _element(_OCTETS, _encrypted(plain, derived, iv)),
        )
    )


def uses_scrypt(pem: bytes) -> bool:
    """Whether an encrypted PEM file derives its key from the passphrase with scrypt."""
    lines = [line for line in pem.decode("ascii", "replace").splitlines() if "-" not in line]
    try:
        return _element(_OBJECT_ID, _SCRYPT) in base64.b64decode("".join(lines))
    except ValueError:
        return False


def _encrypted(plain: bytes, key: bytes, iv: bytes) -> bytes:
    padder, cipher = PKCS7(AES.block_size).padder(), Cipher(AES(key), CBC(iv)).encryptor()
    padded = padder.update(plain) + padder.finalize()
    return cipher.update(padded) + cipher.finalize()


def _pem(der: bytes) -> bytes:
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join([_BEGIN, *lines, _END, ""]).encode()


def _sequence(*parts: bytes) -> bytes:
    return _element(_SEQUENCE, b"".join(parts))


def _integer(number: int) -> bytes:
    # One bit more, for the sign.
    return _element(_INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _element(tag: int, content: bytes) -> bytes:
    """Encode an element of DER (X.690, section 8.1)."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content
