"""Signs the timestamp, which announces the newest snapshot to boxes."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Targets, Timestamp

from opq_twisted.common import files
from opq_twisted.server.timestamp.select import channels
from opq_twisted.trust.pace import FIELD
from opq_twisted.trust.repository_reader import (
    TIMESTAMP_FILE,
    Document,
    MetadataSet,
    Unusable,
    is_signed,
)

#: How long boxes accept a timestamp; it is signed again when half of that is over.
LIFETIME = timedelta(days=7)

#: A timestamp that expires later than this was signed while the clock was wrong.
_MAX_LIFETIME = LIFETIME + timedelta(days=1)


def reason_to_sign(
    timestamp: Document[Timestamp] | None,
    metadata_set: MetadataSet,
    paces: Mapping[str, Any],
    now: datetime,
) -> str | None:
    """
    Return why a new timestamp is needed; None if the current one is good.

    :param paces: what should be in its field for the pace.
    """
    if timestamp is None:
        return "there was none that boxes accept"
    meta = timestamp.signed.snapshot_meta
    if meta.version != metadata_set.snapshot.version:
        return f"the old one names snapshot {meta.version}"
    try:
        meta.verify_length_and_hashes(metadata_set.snapshot.data)
    except RepositoryError:
        return "the old one names another file"
    # TUF's clients ignore another pace in a timestamp of the same version.
    if timestamp.signed.unrecognized_fields.get(FIELD, {}) != paces:
        return "the pace has changed"
    left = timestamp.signed.expires - now
    if left <= LIFETIME / 2:
        return "half of the old one's life is over"
    # Boxes would accept such a timestamp for years.
    return "the old one lives too long" if left > _MAX_LIFETIME else None


def require_key(root: Root, signer: Signer) -> None:
    """Raise `Unusable` unless the root names this key for the timestamp."""
    key = signer.public_key.keyid
    if key not in root.roles[Timestamp.type].keyids:
        raise Unusable(
            f"The key {key[:12]} of --timestamp-key is not one that version {root.version} of root "
            "names for timestamp: no timestamp is signed. Start the server with the right key, or "
            "let the root name this one: opq-release rotate timestamp."
        )


def make_timestamp(
    metadata_set: MetadataSet,
    previous: Document[Timestamp] | None,
    paces: Mapping[str, Any],
    signer: Signer,
    now: datetime,
) -> Document[Timestamp]:
    """
    Sign a timestamp that announces this metadata set.

    :param previous: the previous timestamp, if boxes accept it; they remember no other one.
    :param paces: the field for the pace; it has none if this is empty.
    :raises Unusable: if boxes would not accept the timestamp, or the clock is wrong.
    """
    seconds, newest = int(now.timestamp()), _newest_release(metadata_set.targets.signed)
    if seconds < newest:
        raise Unusable(
            f"This machine's clock shows a time before release {newest} was built, so no timestamp "
            "is signed. Set the clock; if it is right, the clock of the building machine was "
            "ahead: see what opq-release status says on the release machine."
        )
    # The version only has to increase. The time does so even if timestamp.json was lost, or if
    # another server signed the previous one.
    version = max(previous.version + 1 if previous else 1, seconds)
    meta = MetaFile.from_data(metadata_set.snapshot.version, metadata_set.snapshot.data, ["sha256"])
    fields = {FIELD: paces} if paces else {}
    timestamp = Timestamp(
        version, expires=now + LIFETIME, snapshot_meta=meta, unrecognized_fields=fields
    )
    metadata = Metadata(timestamp)
    root = metadata_set.root
    try:
        metadata.sign(signer)
        document = Document.of(metadata)
    except RepositoryError:
        # Python writes no number of more than 4,300 digits.
        raise Unusable(
            f"No version comes after that of {TIMESTAMP_FILE}: whoever signed it has the key too. "
            "Make another one: opq-release rotate timestamp."
        ) from None
    if not is_signed(root, metadata):
        raise Unusable(
            f"Version {root.version} of root requires the signatures of several timestamp keys, "
            "and this server has one: boxes would not accept the new timestamp."
        )
    return document


def _newest_release(targets: Targets) -> int:
    """Return the highest version of the releases that channels name; 0 if there is none."""
    versions = (target.custom.get("version") for _, target, _ in channels(targets))
    return max((each for each in versions if type(each) is int), default=0)


def write_timestamp(folder: Path, timestamp: Document[Timestamp]) -> None:
    """
    Replace the timestamp, and return when the new one is on the disk.

    :raises Unusable: if it cannot be written; the old one is untouched then.
    """
    path = folder / timestamp.name
    try:
        # A mirror that copies the folder may be another user.
        files.write(path, timestamp.data, files.READABLE_BY_ALL)
    except OSError as error:
        raise Unusable(f"Cannot write {path}: {error.strerror}.") from None
