"""The timestamp: it tells boxes which snapshot is the newest, and is signed anew in good time."""

from datetime import datetime, timedelta
from pathlib import Path

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Timestamp

from opq_twisted.common import files
from opq_twisted.server.timestamp.select import MetadataSet, require_signed
from opq_twisted.server.timestamp.store import TIMESTAMP_FILE, Document, Unusable

#: How long boxes take a timestamp for fresh; it is signed anew when half of that is over.
LIFE = timedelta(days=7)

#: More than a timestamp has left that was signed while the clock was right.
_ABSURD = LIFE + timedelta(days=1)

_READABLE_BY_ALL = 0o644


def reason_to_sign(
    timestamp: Document[Timestamp] | None, metadata_set: MetadataSet, now: datetime
) -> str | None:
    """Say why there has to be a new timestamp; None when there need not be."""
    if timestamp is None:
        return "there was none that boxes accept"
    meta = timestamp.signed.snapshot_meta
    if meta.version != metadata_set.version:
        return f"the old one names snapshot {meta.version}"
    try:
        meta.verify_length_and_hashes(metadata_set.snapshot.data)
    except RepositoryError:
        return "the old one names another file"
    left = timestamp.signed.expires - now
    if left <= LIFE / 2:
        return "half of the old one's life is over"
    # Such a one was signed while the clock was wrong: boxes would take it for fresh for years.
    return "the old one lives too long" if left > _ABSURD else None


def require_key(root: Root, signer: Signer) -> None:
    """
    Find out whether the root wants this key.

    :raises Unusable: when it does not.
    """
    key = signer.public_key.keyid
    if key not in root.roles[Timestamp.type].keyids:
        raise Unusable(
            f"The key {key[:12]} of --timestamp-key is not one that version {root.version} of root "
            "names for timestamp: no timestamp is signed. Start the server with the right key, or "
            "let the root name this one: opq-release rotate timestamp."
        )


def make_timestamp(
    root: Root,
    metadata_set: MetadataSet,
    previous: Document[Timestamp] | None,
    signer: Signer,
    now: datetime,
) -> Document[Timestamp]:
    """
    Sign a timestamp that names this metadata set.

    :param previous: the one before, if boxes accept it; of another one they remember nothing.
    :raises Unusable: when boxes would not accept it, or the clock is wrong.
    """
    seconds = int(now.timestamp())
    if seconds < metadata_set.newest:
        raise Unusable(
            f"The clock is behind, or the one was ahead by which release {metadata_set.newest} was "
            "built: no timestamp is signed before that time. Set this machine's clock; if it is "
            "right, see what opq-release status says on the release machine."
        )
    # It need only increase. Being the time, it does so even where timestamp.json was lost, or
    # another server signed the last one.
    version = max(previous.signed.version + 1 if previous else 1, seconds)
    meta = MetaFile.from_data(metadata_set.version, metadata_set.snapshot.data, ["sha256"])
    metadata = Metadata(Timestamp(version, expires=now + LIFE, snapshot_meta=meta))
    try:
        metadata.sign(signer)
        require_signed(root, Timestamp.type, "The new timestamp", metadata)
        return Document(TIMESTAMP_FILE, metadata.to_bytes(), metadata)
    except Unusable as error:
        raise Unusable(f"{error}: boxes would not accept it.") from None
    except RepositoryError:
        # Python writes no number of more than 4,300 digits.
        raise Unusable(
            f"No version comes after that of {TIMESTAMP_FILE}: whoever signed it has the key too. "
            "Make another one: opq-release rotate timestamp."
        ) from None


def write_timestamp(folder: Path, timestamp: Document[Timestamp]) -> None:
    """
    Put a timestamp in the place of the one before, whole and on the disk.

    :raises Unusable: when it cannot be written; the one before is untouched then.
    """
    path = folder / timestamp.name
    try:
        # A mirror that copies the folder may be another user.
        files.write(path, timestamp.data, _READABLE_BY_ALL)
    except OSError as error:
        raise Unusable(f"Cannot write {path}: {error.strerror}.") from None
