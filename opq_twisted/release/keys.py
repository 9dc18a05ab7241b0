"""Keep private keys in files: PKCS#8 PEM, encrypted with a passphrase."""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from opq_twisted import durable
from opq_twisted.errors import KeyUnusable

_MAX_SIZE = 64 << 10


def create(folder: Path, role: str, passphrase: bytes) -> CryptoSigner:
    """
    Make an Ed25519 key for a role, and return when its file is on the disk.

    The file is named for the role and the key, and never replaces another one.

    :raises KeyUnusable: when the passphrase is empty, or the file cannot be written.
    """
    if not passphrase:
        raise KeyUnusable("A key needs a passphrase that is not empty.")
    private = Ed25519PrivateKey.generate()
    signer = CryptoSigner(private, SSlibKey.from_crypto(private.public_key()))
    path = folder / file_name(role, signer.public_key)
    pem = private.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase)
    )
    if path.exists():
        raise KeyUnusable(f"The key {path} is there already: try again.")
    try:
        # Whole or not at all: a part of a key would be taken for one that was made.
        durable.write(path, pem, 0o600)
    except OSError as error:
        raise KeyUnusable(f"The key {path} cannot be written: {error.strerror}.") from None
    return signer


def file_name(role: str, key: Key) -> str:
    """Say how the file of a role's key is named: the first digits of its id tell keys apart."""
    return f"{role}-{key.keyid[:12]}.pem"


def load(path: Path, passphrase: bytes | None) -> CryptoSigner:
    """
    Read a private key; the passphrase of one that is not encrypted is not looked at.

    :raises KeyUnusable: when it cannot be read, or not with this passphrase.
    """
    pem = _read(path)
    if b"ENCRYPTED" not in pem:
        passphrase = None
    elif not passphrase:
        raise KeyUnusable(f"The key {path} is encrypted, and no passphrase was given.")
    try:
        return CryptoSigner(load_pem_private_key(pem, passphrase))
    except (ValueError, TypeError, UnsupportedAlgorithm, UnsupportedLibraryError):
        raise KeyUnusable(
            f"The key {path} cannot be opened: it is no PKCS#8 PEM file of a private key, or the "
            "passphrase is wrong."
        ) from None


def load_public(path: Path) -> Key:
    """
    Read a public key that was made elsewhere: PEM, as `openssl pkey -pubout` writes it.

    :raises KeyUnusable: when it is none.
    """
    try:
        return SSlibKey.from_crypto(load_pem_public_key(_read(path)))
    except (ValueError, UnsupportedAlgorithm, UnsupportedLibraryError):
        raise KeyUnusable(
            f"{path} is no PEM file of a public key that boxes can use: give an Ed25519 one, as "
            "openssl pkey -pubout writes it."
        ) from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_SIZE)
    except OSError as error:
        raise KeyUnusable(f"The key {path} cannot be read: {error.strerror}.") from None
