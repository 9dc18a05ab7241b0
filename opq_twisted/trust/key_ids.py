"""Verifies that the key ids in a root are the digests of its keys."""

from hashlib import sha256

from securesystemslib.exceptions import FormatError
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import Key
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root


def verify_key_ids(root: Root) -> None:
    """
    Refuse a root that gives a key the id of another key.

    TUF's implementations treat the ids as mere names, but people compare keys by their ids. Nobody
    must sign a draft that shows an id that he knows, and has a thief's key behind it.

    :raises RepositoryError: if an id is not the digest of its key (TUF specification, section
        4.2: the SHA-256 of its canonical form).
    """
    for keyid, key in root.keys.items():
        if keyid not in _digests(key):
            raise RepositoryError(
                f"root {root.version} gives a key the id {keyid[:12]!a}, which is not its own"
            )


def verify_key_ids_in(data: bytes) -> None:
    """
    Do the same for the bytes of a root.

    :raises RepositoryError: also if they are not metadata.
    """
    signed = Metadata[Root].from_bytes(data).signed
    if isinstance(signed, Root):
        verify_key_ids(signed)


def _digests(key: Key) -> set[str]:
    """Return the ids that a key may have: with and without its unrecognized fields."""
    described = key.to_dict()
    essential = {name: described[name] for name in ("keytype", "scheme", "keyval")}
    try:
        texts = [encode_canonical(each) for each in (essential, described)]
    except FormatError:
        return set()
    return {sha256(str(text).encode()).hexdigest() for text in texts}
