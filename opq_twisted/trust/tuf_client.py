"""TUF's client workflow without I/O: it says which file it needs next."""

from pathlib import Path
from typing import Any

from securesystemslib.exceptions import StorageError
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root, Timestamp
from tuf.ngclient import FetcherInterface, TargetFile, Updater, UpdaterConfig

from opq_twisted.common import files
from opq_twisted.common.errors import Untrusted
from opq_twisted.trust.key_ids import require_own_ids_in

#: The folder of the signed metadata, beside the archives and on the wire.
METADATA = "tuf"

_ROOT_SUFFIX = ".root.json"


class Need(Exception):
    """The lookup cannot go on without a file: fetch it, and look up again."""

    def __init__(self, url: str, max_length: int) -> None:
        super().__init__(url)
        self.url = url
        #: Bytes; a longer file is of no use.
        self.max_length = max_length


class Fetched(FetcherInterface):
    """
    The files that were fetched during one lookup.

    TUF's client fetches in the middle of its work. This one lets it begin again instead whenever it
    lacks a file, which the specification allows at any point, so that it never waits for a network.
    """

    def __init__(self) -> None:
        self._answers: dict[str, bytes | DownloadError] = {}

    def keep(self, url: str, answer: bytes | DownloadError) -> None:
        """Keep what came: a file, or that there is none."""
        self._answers[url] = answer

    @property
    def last(self) -> tuple[str, bytes | DownloadError] | None:
        """The file that was fetched last: its URL, and what came; None before the first."""
        return next(reversed(self._answers.items()), None)

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """
        Give a file that was fetched.

        :raises Need: when it was not fetched yet.
        :raises DownloadError: when it could not be fetched.
        """
        if url not in self._answers:
            # A signed length may be any number: whoever has the timestamp's key chooses it.
            raise Need(url, min(max_length, max_size(url)))
        answer = self._answers[url]
        if isinstance(answer, DownloadError):
            raise answer
        if url.endswith(_ROOT_SUFFIX):
            # Before it is verified, and kept.
            require_own_ids_in(answer)
        return answer

    def _fetch(self, url: str) -> Any:
        raise NotImplementedError("archives are fetched by the box's own downloader")


def max_size(url: str) -> int:
    """
    Say how many bytes a box reads of a file of metadata, whatever other metadata says of it.

    :param url: its URL or its name, as `2.targets.json`; a delegated role counts as targets.
    """
    role = url.rsplit("/", 1)[-1].split(".")[-2]
    config = UpdaterConfig()
    most: int = getattr(config, f"{role}_max_length", config.targets_max_length)
    return most


def look_up(
    cache: Path,
    base_url: str,
    root: bytes,
    fetched: Fetched,
    target: str | None,
) -> TargetFile | None:
    """
    Go through TUF's client workflow (TUF specification, section 5), from the trusted root.

    It reads and writes the cache, and takes the time from the machine's clock. Run it in a thread.

    :param cache: the metadata that was trusted last, against rollback; a damaged one heals.
    :param target: what to look for; None to refresh only.
    :returns: None when nothing of that name is signed.
    :raises Need: when a file has to be fetched first.
    :raises Untrusted: when the trusted root itself cannot be used.
    :raises tuf.api.exceptions.RepositoryError: when something is not signed as it must be.
    :raises tuf.api.exceptions.DownloadError: what a file was answered with.
    :raises OSError: when the cache cannot be used.
    """
    try:
        require_own_ids_in(root)
        _forget_false_roots(cache)
        # A new one each time: it takes the time when it is made.
        updater = Updater(
            str(cache), base_url, fetcher=fetched, config=UpdaterConfig(), bootstrap=root
        )
    except RepositoryError as error:
        raise Untrusted(
            f"The box's trusted root cannot be used ({error}): put the root.json of the release "
            "key's holders in its place."
        ) from None
    updater.refresh()
    return None if target is None else updater.get_targetinfo(target)


def is_older_copy(cache: Path, fetched: Fetched, error: RepositoryError) -> bool:
    """
    Find out whether `look_up` failed because the server's timestamp is an older one.

    A copy of the metadata that lags behind has one that was signed as it must be, and is behind
    what the cache has: by its number, by its snapshot's, or because another root has replaced the
    key that signed it.

    :param cache: the one that was looked up with, after the failure.
    :param error: the failure.
    """
    url, data = fetched.last or ("", b"")
    if not url.endswith(f"/{Timestamp.type}.json") or not isinstance(data, bytes):
        return False
    if isinstance(error, UnsignedMetadataError):
        return _is_signed_for_older_root(cache, Metadata[Timestamp].from_bytes(data))
    # The client compares numbers after it has verified the signature.
    return isinstance(error, BadVersionNumberError)


def _is_signed_for_older_root(cache: Path, timestamp: Metadata[Timestamp]) -> bool:
    """Whether a timestamp that is not newer is signed as a root wanted it that was seen before."""
    try:
        seen = Metadata[Timestamp].from_file(str(cache / f"{Timestamp.type}.json"))
    except (RepositoryError, StorageError):
        return False
    if timestamp.signed.version > seen.signed.version:
        # Nobody lags with what is new: that is somebody who has a key that was replaced.
        return False
    for path in (cache / "root_history").glob("*.root.json"):
        try:
            root = Metadata[Root].from_file(str(path)).signed
            root.verify_delegate(Timestamp.type, timestamp.signed_bytes, timestamp.signatures)
        except (RepositoryError, StorageError, ValueError):
            continue
        return True
    return False


def _forget_false_roots(cache: Path) -> None:
    """Remove roots with false ids that were trusted by an earlier version of this program."""
    for path in (cache / "root_history").glob(f"*{_ROOT_SUFFIX}"):
        try:
            require_own_ids_in(files.read(path, max_size(path.name)))
        except (RepositoryError, OSError):
            path.unlink()
