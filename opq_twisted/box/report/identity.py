"""The box's own key, by which the update server knows the box's reports."""

from functools import cached_property
from pathlib import Path

from attrs import frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from twisted.logger import Logger

from opq_twisted.common import files
from opq_twisted.common.errors import MACHINE_BUSY, KeyUnusable
from opq_twisted.report import signature

#: The name of the file in the state directory.
FILE = "box.key"

_MODE = 0o600

#: Bytes.
_MAX_SIZE = 4096

#: How often the agent tries to read the file while the disk fails.
_READS = 3

_log = Logger()


@frozen
class Identity:
    """An Ed25519 key (RFC 8032) that this box has made."""

    _key: Ed25519PrivateKey

    @cached_property
    def public(self) -> bytes:
        """The public key: 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    @cached_property
    def fingerprint(self) -> str:
        """The id of the key, which people compare: 32 hexadecimal digits."""
        return signature.key_id(self.public)

    def sign(self, body: bytes) -> str:
        """Sign a report; returns the value of the header `report.signature.HEADER`."""
        return signature.sign(self._key, body)


def load_identity(path: Path) -> Identity | None:
    """
    Read the box's key, or make it.

    A key that is damaged, or that others could read, is replaced: the update server then sees a new
    box. Whatever happens, no error is raised, because the box must be updated without reports, too.

    :returns: None if there is no key now: the box cannot report. The log says why.
    """
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    except KeyUnusable as error:
        _log.warn("{error} It is replaced: the update server sees a new box.", error=error)
    except OSError as error:
        if error.errno in MACHINE_BUSY:
            # The file may be good, and the shortage will pass.
            _log.warn("{path} cannot be read; no reports are sent: {error}", path=path, error=error)
            return None
        _log.warn("{path} cannot be read, and is replaced: {error}", path=path, error=error)
    try:
        return _make(path)
    except (KeyUnusable, OSError) as error:
        _log.warn("The box has no key, and sends no reports: {error}", error=error)
        return None


def _read(path: Path) -> Identity:
    """
    Read the key.

    :raises KeyUnusable: if it is damaged, or others could read it.
    :raises OSError: if it cannot be read.
    """
    data = _read_file(path)
    _require_secret(path)
    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnusable(f"The box's key {path} is damaged.")
    return Identity(key)


def _read_file(path: Path) -> bytes:
    for _ in range(_READS - 1):
        try:
            return files.read(path, _MAX_SIZE)
        except FileNotFoundError:
            raise
        except OSError:
            # A failing card may read well a moment later.
            continue
    return files.read(path, _MAX_SIZE)


def _make(path: Path) -> Identity:
    key = Ed25519PrivateKey.generate()
    # Not the raw 32 bytes: any 32 bytes are a key, also the zeros that a power cut can leave.
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files.write(path, pem, _MODE)
    # A file system without permissions would let the box make another key at each start.
    _require_secret(path)
    return Identity(key)


def _require_secret(path: Path) -> None:
    if files.is_open_to_others(path):
        raise KeyUnusable(f"Others can read the box's key {path}.")
