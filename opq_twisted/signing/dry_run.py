"""Tries new metadata on a real TUF client, before any box sees it."""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Key
from tuf.api.exceptions import DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from opq_twisted.common.errors import ReleaseFailed, Untrusted
from opq_twisted.trust.offer import is_channel, read_offer
from opq_twisted.trust.repository_reader import Document, MetadataSet
from opq_twisted.trust.tuf_client import Fetched, Need, look_up

_URL = "dry-run:/"
_PREFIX = "opq-dry-run-"


def try_roots(roots: Sequence[Metadata[Root]]) -> None:
    """
    Let a client go from the first root to the last, which may have expired.

    :raises ReleaseFailed: if the client does not get there.
    """
    files = {f"{root.signed.version}.root.json": root.to_bytes() for root in roots}
    try:
        with tempfile.TemporaryDirectory(prefix=_PREFIX) as cache:
            # After the last root the client looks for a timestamp, which is not there.
            with suppress(DownloadHTTPError):
                _look_up(files, roots[0].to_bytes(), Path(cache))
            reached = Metadata[Root].from_file(str(Path(cache) / "root.json")).signed.version
    except (RepositoryError, Untrusted) as error:
        raise _refused(error) from None
    if reached != roots[-1].signed.version:
        raise ReleaseFailed(
            f"Boxes would refuse this: from root {roots[0].signed.version} they do not get further "
            f"than to {reached}."
        )


def try_metadata_sets(*metadata_sets: MetadataSet) -> None:
    """
    Let one client follow all metadata sets in turn, and a new client start with the last one.

    The server has the timestamp key. So the clients start from a temporary root, which names the
    real keys of targets and snapshot, and a temporary key for the timestamp: the signatures,
    versions, hashes and lengths that they check are real.

    :raises ReleaseFailed: if a client refuses one, or a box could not follow a channel.
    """
    server = _TemporaryServer()
    *before, last = (server.publish(number, each) for number, each in enumerate(metadata_sets, 1))
    first_root = [*before, last][0]["1.root.json"]
    files: dict[str, bytes] = {}
    try:
        with (
            tempfile.TemporaryDirectory(prefix=_PREFIX) as followed,
            tempfile.TemporaryDirectory(prefix=_PREFIX) as fresh,
        ):
            for published in before:
                files |= published
                # Boxes saw metadata that has expired since then while it was valid.
                with suppress(ExpiredMetadataError):
                    _look_up(files, first_root, Path(followed))
            files |= last
            for cache in (followed, fresh):
                _look_up(files, first_root, Path(cache))
        for target in metadata_sets[-1].targets.signed.targets.values():
            if is_channel_target(target):
                read_offer(target)
    except (RepositoryError, Untrusted, DownloadHTTPError) as error:
        raise _refused(error) from None


def is_channel_target(target: TargetFile) -> bool:
    """Whether a target is a channel and not an archive."""
    return is_channel(target.path)


class _TemporaryServer:
    """Signs root and timestamp with keys that are thrown away."""

    def __init__(self) -> None:
        self._root_key = CryptoSigner.generate_ed25519()
        self._timestamp_key = CryptoSigner.generate_ed25519()
        self._expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)

    def publish(self, number: int, metadata_set: MetadataSet) -> dict[str, bytes]:
        """Return the files that a server would have, by name."""
        real = metadata_set.root
        own = {
            Root.type: self._root_key.public_key,
            Timestamp.type: self._timestamp_key.public_key,
        }
        roles = {role: Role([key.keyid], 1) for role, key in own.items()}
        public: dict[str, Key] = {key.keyid: key for key in own.values()}
        for role in (Targets.type, Snapshot.type):
            roles[role] = real.roles[role]
            public |= {keyid: real.keys[keyid] for keyid in real.roles[role].keyids}
        root = Metadata(Root(number, expires=self._expires, keys=public, roles=roles))
        root.sign(self._root_key)
        snapshot, targets = metadata_set.snapshot, metadata_set.targets
        meta = MetaFile.from_data(snapshot.version, snapshot.data, ["sha256"])
        timestamp = Metadata(Timestamp(number, expires=self._expires, snapshot_meta=meta))
        timestamp.sign(self._timestamp_key)
        documents = (Document.of(root), Document.of(timestamp), snapshot, targets)
        return {document.name: document.data for document in documents}


def _look_up(files: Mapping[str, bytes], root: bytes, cache: Path) -> None:
    fetched = Fetched()
    while True:
        try:
            look_up(cache, _URL, root, fetched, None)
            return
        except Need as need:
            name = need.url.removeprefix(_URL)
            data = files.get(name)
            if data is None:
                fetched.keep(need.url, DownloadHTTPError(f"there is no {name}", 404))
            elif len(data) > need.max_length:
                raise ReleaseFailed(
                    f"Boxes would refuse this, so nothing was changed: {name} would have "
                    f"{len(data)} bytes, and {need.max_length} are read."
                ) from None
            else:
                fetched.keep(need.url, data)


def _refused(error: Exception) -> ReleaseFailed:
    return ReleaseFailed(
        f"Boxes would refuse this, so nothing was changed: {str(error).rstrip('.')}."
    )
