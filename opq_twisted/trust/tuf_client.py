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
from opq_twisted.trust.key_ids import verify_key_ids_in
from opq_twisted.trust.metadata_files import max_size

_ROOT_SUFFIX = ".root.json"


class Need(Exception):
    """The lookup needs a file: fetch it, and call `look_up` again."""

    def __init__(self, url: str, max_length: int) -> None:
        super().__init__(url)
        self.url = url
        #: Bytes; a longer file is useless.
        self.max_length = max_length


class Fetched(FetcherInterface):
    """
    The files that were fetched during one lookup.

    TUF's own client fetches files while it works. This class never waits for a network: if a file
    is missing, the lookup ends with `Need`, and is started again later, which the specification
    allows at any point.
    """

    def __init__(self) -> None:
        self._results: dict[str, bytes | DownloadError] = {}

    def keep(self, url: str, result: bytes | DownloadError) -> None:
        """Store the result of fetching a URL: the file, or the reason why there is none."""
        self._results[url] = result

    @property
    def last(self) -> tuple[str, bytes | DownloadError] | None:
        """The URL that was fetched last, and its result; None before the first one."""
        return next(reversed(self._results.items()), None)

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """
        Return a file that was fetched.

        :raises Need: if it was not fetched yet.
        :raises DownloadError: if it could not be fetched.
        """
        if url not in self._results:
            # A thief of the timestamp key could sign any length.
            raise Need(url, min(max_length, max_size(url)))
        result = self._results[url]
        if isinstance(result, DownloadError):
            raise result
        if url.endswith(_ROOT_SUFFIX):
            # Before the client verifies the root and stores it.
            verify_key_ids_in(result)
        return result

    def _fetch(self, url: str) -> Any:
        raise NotImplementedError("archives are fetched by the box's own downloader")


def look_up(
    cache: Path, base_url: str, root: bytes, fetched: Fetched, target: str | None
) -> TargetFile | None:
    """
    Run TUF's client workflow (TUF specification, section 5) from the trusted root.

    It reads and writes the cache, and uses the machine's clock. Run it in a thread.

    :param cache: the folder of the metadata that was trusted last, which prevents a rollback. It
        is repaired if it is damaged.
    :param target: the name of the target; None to refresh the metadata only.
    :returns: the target; None if no target of that name is signed.
    :raises Need: if a file has to be fetched first.
    :raises Untrusted: if the trusted root itself cannot be used.
    :raises tuf.api.exceptions.RepositoryError: if metadata is invalid, or not signed as required.
    :raises tuf.api.exceptions.DownloadError: if a file could not be fetched.
    :raises OSError: if the cache cannot be used.
    """
    try:
        verify_key_ids_in(root)
        _remove_false_roots(cache)
        # A new one each time, because it reads the clock when it is made.
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


def read_timestamp(cache: Path) -> Timestamp:
    """
    Read the timestamp that `look_up` has trusted, before another lookup uses the same cache.

    TUF's client keeps its file as it was signed, with the fields that only this program knows.

    :raises tuf.api.exceptions.RepositoryError: if the file has been damaged since.
    :raises OSError: if it cannot be read.
    """
    name = f"{Timestamp.type}.json"
    return Metadata[Timestamp].from_bytes(files.read(cache / name, max_size(name))).signed


def is_older_copy(cache: Path, fetched: Fetched, error: RepositoryError) -> bool:
    """
    Whether `look_up` failed because the server's timestamp is older than the one in the cache.

    An outdated copy of the metadata has a timestamp that was validly signed, but its version or
    its snapshot's version is lower, or a newer root has replaced the key that signed it.

    :param cache: the folder that was passed to `look_up`, after the failure.
    :param error: the failure.
    """
    url, data = fetched.last or ("", b"")
    if not url.endswith(f"/{Timestamp.type}.json") or not isinstance(data, bytes):
        return False
    if isinstance(error, UnsignedMetadataError):
        return _is_signed_for_older_root(cache, Metadata[Timestamp].from_bytes(data))
    # The client compares versions only after it has verified the signature.
    return isinstance(error, BadVersionNumberError)


def _is_signed_for_older_root(cache: Path, timestamp: Metadata[Timestamp]) -> bool:
    """Whether a timestamp that is not newer is signed as an earlier trusted root required."""
    try:
        seen = Metadata[Timestamp].from_file(str(cache / f"{Timestamp.type}.json"))
    except (RepositoryError, StorageError):
        return False
    if timestamp.signed.version > seen.signed.version:
        # An outdated copy has nothing new: somebody has signed this with a replaced key.
        return False
    for path in (cache / "root_history").glob("*.root.json"):
        try:
            root = Metadata[Root].from_file(str(path)).signed
            root.verify_delegate(Timestamp.type, timestamp.signed_bytes, timestamp.signatures)
        except (RepositoryError, StorageError, ValueError):
            continue
        return True
    return False


def _remove_false_roots(cache: Path) -> None:
    """Remove roots with false key ids that an earlier version of this program has trusted."""
    for path in (cache / "root_history").glob(f"*{_ROOT_SUFFIX}"):
        try:
            verify_key_ids_in(files.read(path, max_size(path.name)))
        except (RepositoryError, OSError):
            path.unlink()
