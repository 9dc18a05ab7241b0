"""Tries new metadata on a real client, before any box sees it."""

import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Key
from tuf.api.exceptions import DownloadHTTPError, RepositoryError
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

from opq_twisted.errors import ReleaseFailed, Untrusted
from opq_twisted.release.name import UpdateName
from opq_twisted.release.repository import Generation
from opq_twisted.release.trust import Fetched, Need, look_up, read_offer

_URL = "rehearsal:/"


def try_roots(roots: Sequence[Metadata[Root]]) -> None:
    """
    Let a client go from the first root to the last.

    :raises ReleaseFailed: when it would not.
    """
    files = {f"{root.signed.version}.root.json": root.to_bytes() for root in roots}
    try:
        _look_up(files, roots[0].to_bytes())
    except DownloadHTTPError:
        # All roots were taken: what it lacks is the server's timestamp.
        pass
    except (RepositoryError, Untrusted) as error:
        raise _refused(error) from None
    if roots[-1].signed.is_expired():
        raise ReleaseFailed("Boxes would refuse this root: it has expired.")


def try_generations(*generations: Generation) -> None:
    """
    Let a client follow from one generation to the next, and another begin with the last.

    The timestamp's key is the server's. So the client starts from a root of the rehearsal's own,
    which names the real keys of targets and snapshot, and a key for the timestamp that is thrown
    away: the signatures, numbers, hashes and lengths that it checks are real.

    :raises ReleaseFailed: when it would not, or a box could not follow a channel.
    """
    stage = _Stage()
    shows = [stage.show(number, each) for number, each in enumerate(generations, start=1)]
    try:
        with tempfile.TemporaryDirectory(prefix="opq-rehearsal-") as cache:
            files: dict[str, bytes] = {}
            for show in shows:
                files |= show
                _look_up(files, shows[0]["1.root.json"], Path(cache))
        _look_up(files, shows[0]["1.root.json"])
        for target in generations[-1].targets.signed.targets.values():
            if is_channel_target(target):
                read_offer(target)
    except (RepositoryError, Untrusted, DownloadHTTPError) as error:
        raise _refused(error) from None


def is_channel_target(target: TargetFile) -> bool:
    """Whether a target is a channel and not an archive."""
    return not target.path.startswith(UpdateName(1).folder.rstrip("1"))


class _Stage:
    def __init__(self) -> None:
        self._root_key = CryptoSigner.generate_ed25519()
        self._timestamp_key = CryptoSigner.generate_ed25519()
        self._expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)

    def show(self, number: int, generation: Generation) -> dict[str, bytes]:
        """Make the files that a server would have, by name."""
        real = generation.root.signed
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
        snapshot, targets = generation.snapshot, generation.targets
        data = snapshot.to_bytes()
        timestamp = Metadata(
            Timestamp(
                number,
                expires=self._expires,
                snapshot_meta=MetaFile.from_data(snapshot.signed.version, data, ["sha256"]),
            )
        )
        timestamp.sign(self._timestamp_key)
        return {
            f"{number}.root.json": root.to_bytes(),
            "timestamp.json": timestamp.to_bytes(),
            f"{snapshot.signed.version}.snapshot.json": data,
            f"{targets.signed.version}.targets.json": targets.to_bytes(),
        }


def _look_up(files: Mapping[str, bytes], root: bytes, cache: Path | None = None) -> None:
    if cache is None:
        with tempfile.TemporaryDirectory(prefix="opq-rehearsal-") as folder:
            return _look_up(files, root, Path(folder))
    fetched = Fetched()
    while True:
        try:
            look_up(cache, _URL, root, fetched, None)
            return None
        except Need as need:
            data = files.get(need.url.removeprefix(_URL))
            if data is None:
                fetched.keep(need.url, DownloadHTTPError(f"there is no {need.url}", 404))
            elif len(data) > need.max_length:
                raise ReleaseFailed(
                    f"Boxes would refuse this: {need.url.removeprefix(_URL)} is larger than the "
                    f"{need.max_length} bytes that they read."
                ) from None
            else:
                fetched.keep(need.url, data)


def _refused(error: Exception) -> ReleaseFailed:
    return ReleaseFailed(f"Boxes would refuse this, so nothing was changed: {error}.")
