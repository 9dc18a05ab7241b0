"""Private keys in files: PKCS#8 PEM, encrypted with a passphrase."""

import os
from pathlib import Path

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
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

    The file is named after the role and the key, and never replaces another one.

    :raises KeyUnusable: if the passphrase is empty, the file cannot be written, or the machine has
        too little memory.
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
    """Return the name of the file for a role's key, with the first digits of the key's id."""
    return f"{role}-{key.keyid[:12]}.pem"


def load(path: Path, passphrase: bytes | None) -> CryptoSigner:
    """
    Read a private key; if it is not encrypted, the passphrase is ignored.

    :raises KeyUnusable: if the file cannot be read, other users can read it, or the passphrase is
        wrong.
    """
    try:
        return CryptoSigner(_open(path, passphrase))
    except (UnsupportedAlgorithm, UnsupportedLibraryError, ValueError, TypeError):
        raise _cannot_be_opened(path) from None


def reencrypt(path: Path, passphrase: bytes | None, new: bytes) -> None:
    """
    Encrypt a private key again, in the current format; a power cut leaves the old file or the new.

    :raises KeyUnusable: if the file cannot be opened or written, or the new passphrase is empty.
    """
    _require(new)
    # By its real path: otherwise a link would be replaced, and its target would stay as it was.
    _write(Path(os.path.realpath(path)), _encrypt(_open(path, passphrase), new))


def _encrypt(private: PrivateKeyTypes, passphrase: bytes) -> bytes:
    try:
        return pkcs8.encrypt(private, passphrase)
    except MemoryError:
        raise KeyUnusable(
            "This machine has too little memory to encrypt a key, which takes 128 MiB: end other "
            "programs, or use another machine."
        ) from None


def advice(path: Path) -> str | None:
    """
    Return a sentence that says how to make the file of a private key safer; None if it is safe.

    :raises KeyUnusable: if the file cannot be read.
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
    if files.is_open_to_others(path):
        raise KeyUnusable(
            f"Every user of this machine can read or change the key {path}: run chmod 600 {path}, "
            "or, where it lies on a medium without permissions (FAT), copy it to another one."
        )
    if b"ENCRYPTED" not in pem:
        passphrase = None
    elif not passphrase:
        raise KeyUnusable(f"The key {path} is encrypted, and no passphrase was given.")
    try:
        return load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _cannot_be_opened(path) from None
    except (InternalError, MemoryError):
        # `cryptography` raises these for a cost that OpenSSL does not accept.
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


def _write(path: Path, pem: bytes, mode: int = 0o600) -> None:
    try:
        # Atomically: an incomplete file would be taken for a key.
        files.write(path, pem, mode)
    except OSError as error:
        raise KeyUnusable(f"The key {path} cannot be written: {error.strerror}.") from None


def write_public(path: Path, key: Key) -> None:
    """
    Write the public key of one that `create` made, for `load_public`.

    :raises KeyUnusable: if the file cannot be written.
    """
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.keyval["public"]))
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _write(path, pem, files.READABLE_BY_ALL)


def load_public(path: Path) -> Key:
    """
    Read a public key that was made elsewhere: PEM, as `openssl pkey -pubout` writes it.

    :raises KeyUnusable: if the file is not such a key.
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
