"""Keep private keys in files: PKCS#8 PEM, encrypted with a passphrase."""

import os
from pathlib import Path

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from opq_twisted.common import files
from opq_twisted.common.errors import KeyUnusable
from opq_twisted.trust import pkcs8

_MAX_SIZE = 64 << 10


def create(folder: Path, role: str, passphrase: bytes) -> CryptoSigner:
    """
    Make an Ed25519 key for a role, and return when its file is on the disk.

    The file is named for the role and the key, and never replaces another one.

    :raises KeyUnusable: when the passphrase is empty, the file cannot be written, or the memory is
        too little.
    """
    _require(passphrase)
    private = Ed25519PrivateKey.generate()
    signer = CryptoSigner(private, SSlibKey.from_crypto(private.public_key()))
    path = folder / file_name(role, signer.public_key)
    pem = _encrypt(private, passphrase)
    if path.exists():
        raise KeyUnusable(f"The key {path} is there already: try again.")
    _write(path, pem)
    return signer


def file_name(role: str, key: Key) -> str:
    """Say how the file of a role's key is named: the first digits of its id tell keys apart."""
    return f"{role}-{key.keyid[:12]}.pem"


def load(path: Path, passphrase: bytes | None) -> CryptoSigner:
    """
    Read a private key; the passphrase of one that is not encrypted is not looked at.

    :raises KeyUnusable: when it cannot be read, or not with this passphrase, or when others can
        read it.
    """
    try:
        return CryptoSigner(_open(path, passphrase))
    except (UnsupportedAlgorithm, UnsupportedLibraryError, ValueError, TypeError):
        raise _cannot_be_opened(path) from None


def encrypt_anew(path: Path, passphrase: bytes | None, new: bytes) -> None:
    """
    Encrypt a private key as keys are encrypted today; a power cut leaves the old file or the new.

    :raises KeyUnusable: when it cannot be opened or written, or the new passphrase is empty.
    """
    _require(new)
    # By its real name: a link would be replaced, and what it leads to would stay as it was.
    _write(Path(os.path.realpath(path)), _encrypt(_open(path, passphrase), new))


def _encrypt(private: PrivateKeyTypes, passphrase: bytes) -> bytes:
    try:
        return pkcs8.encrypt(private, passphrase)
    except MemoryError:
        raise KeyUnusable(
            "This machine has too little memory to encrypt a key, which takes 128 MiB: end other "
            "programs, or do it on another machine."
        ) from None


def advice(path: Path) -> str | None:
    """
    Say what makes the file of a private key safer, if anything does.

    :raises KeyUnusable: when it cannot be read.
    """
    pem = _read(path)
    if b"ENCRYPTED" in pem and not pkcs8.uses_scrypt(pem):
        return (
            f"The key {path} is protected by an older format, in which a thief can guess the "
            f"passphrase quickly: run opq-release encrypt {path}"
        )
    return None


def _open(path: Path, passphrase: bytes | None) -> PrivateKeyTypes:
    pem = _read(path)
    _require_private(path)
    if b"ENCRYPTED" not in pem:
        passphrase = None
    elif not passphrase:
        raise KeyUnusable(f"The key {path} is encrypted, and no passphrase was given.")
    try:
        return load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _cannot_be_opened(path) from None
    except (InternalError, MemoryError):
        # `cryptography` has no other word for a cost that OpenSSL does not take.
        raise KeyUnusable(
            f"The key {path} cannot be opened: its format asks for more memory than there is, or "
            "it is damaged."
        ) from None


def _cannot_be_opened(path: Path) -> KeyUnusable:
    return KeyUnusable(
        f"The key {path} cannot be opened: it is no PKCS#8 PEM file of a private key, or the "
        "passphrase is wrong."
    )


def _require(passphrase: bytes) -> None:
    if not passphrase:
        raise KeyUnusable("A key needs a passphrase that is not empty.")


def _require_private(path: Path) -> None:
    if files.is_open_to_others(path):
        raise KeyUnusable(
            f"Every user of this machine can read or change the key {path}: run chmod 600 {path}, "
            "or, where it lies on a medium without permissions (FAT), copy it to another one."
        )


def _write(path: Path, pem: bytes) -> None:
    try:
        # Whole or not at all: a part of a key would be taken for one that was made.
        files.write(path, pem, 0o600)
    except OSError as error:
        raise KeyUnusable(f"The key {path} cannot be written: {error.strerror}.") from None


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
        return files.read(path, _MAX_SIZE)
    except OSError as error:
        raise KeyUnusable(f"The key {path} cannot be read: {error.strerror}.") from None
