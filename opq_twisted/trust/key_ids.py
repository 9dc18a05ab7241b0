"""Make sure that the ids in a root are those of its keys."""

from hashlib import sha256

from securesystemslib.exceptions import FormatError
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import Key
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root


def require_own_ids(root: Root) -> None:
    """
    Refuse a root that gives a key the id of another one.

    TUF's implementations take the ids for mere names. But people compare keys by their ids: a
    draft with the id of a key that they know, and a thief's key behind it, must not be signed.

    :raises RepositoryError: when an id is not the digest of its key (TUF specification, section
        4.2: the SHA-256 of its canonical form).
    """
    for keyid, key in root.keys.items():
        if keyid not in _digests(key):
            raise RepositoryError(
                f"root {root.version} gives a key the id {keyid[:12]!a}, which is not its own"
            )


def require_own_ids_in(data: bytes) -> None:
    """
    Do the same for the file of a root.

    :raises RepositoryError: when it is no metadata, too.
    """
    signed = Metadata[Root].from_bytes(data).signed
    if isinstance(signed, Root):
        require_own_ids(signed)


def _digests(key: Key) -> set[str]:
    """Give the ids that a key may have: with and without what else may be said of it."""
    described = key.to_dict()
    essential = {name: described[name] for name in ("keytype", "scheme", "keyval")}
    try:
        texts = [encode_canonical(each) for each in (essential, described)]
    except FormatError:
        return set()
    return {sha256(str(text).encode()).hexdigest() for text in texts}
