"""Looks up a release in the update server's signed metadata."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from attrs import frozen
from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
    RepositoryError,
)
from tuf.api.metadata import TargetFile, Timestamp
from twisted.internet.defer import Deferred, DeferredLock, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThread

from opq_twisted.box.download.verify import InThread
from opq_twisted.common.errors import OlderCopy, ServerFailed, Stale, Untrusted

if TYPE_CHECKING:
    from opq_twisted.trust.tuf_client import Fetched

#: Seconds that a lookup may take, including all downloads.
_TIMEOUT = 600.0

#: Downloads a URL with a limit in bytes; returns None if there is no such file.
Fetch = Callable[[str, int], Awaitable[bytes | None]]


@frozen
class Found:
    """The result of a lookup."""

    #: None if the metadata does not have it.
    target: TargetFile | None
    #: The timestamp that led to it, as it is trusted now.
    timestamp: Timestamp


class SignedMetadata:
    """
    Looks up targets with the client of python-tuf.

    That client would block while it downloads. So it runs in a thread, with the files downloaded
    so far. When it needs another file, the reactor downloads that, and the client starts again. A
    lookup ends at once when it is cancelled.

    The client is imported by the first lookup. It imports an HTTP library, 2 MB of memory that a
    box without a trusted root does not need.
    """

    def __init__(
        self, clock: IReactorTime, fetch: Fetch, cache: Path, in_thread: InThread = deferToThread
    ) -> None:
        """:param cache: the folder of the last trusted metadata."""
        self._clock = clock
        self._fetch = fetch
        self._cache = cache
        self._in_thread = in_thread
        # Only one lookup may use the cache: a click and a scheduled check may coincide.
        self._lookup_lock = DeferredLock()
        # The thread of a cancelled lookup may still run.
        self._cache_lock = Lock()

    async def find(self, base_url: str, root: bytes, target: str | None) -> TargetFile | None:
        """Look up a target as `look_up` does, and return it alone."""
        return (await self.look_up(base_url, root, target)).target

    async def look_up(self, base_url: str, root: bytes, target: str | None) -> Found:
        """
        Look up a target, or only refresh the metadata if the target is None.

        :param root: the trusted metadata of the root role.
        :raises Untrusted: if the metadata is not validly signed, or older than the box has seen.
        :raises OlderCopy: if only the timestamp is older than the box has seen.
        :raises Stale: if the metadata has expired.
        :raises ServerFailed: if the server cannot be reached, or lacks a part of the metadata.
        :raises OSError: if the cache cannot be used.
        """
        try:
            async with self._lookup_lock:
                lookup = Deferred.fromCoroutine(self._look_up(base_url, root, target))
                return await lookup.addTimeout(_TIMEOUT, self._clock)
        except TimeoutError:
            raise ServerFailed(
                f"The update server took more than {_TIMEOUT / 60:.0f} minutes to send its "
                "signed metadata."
            ) from None
        except ExpiredMetadataError as error:
            raise Stale(
                f"Stale: the update server's signed metadata has expired ({error}). Nothing new is "
                "installed until its operator renews it, or, where the box's clock is wrong, until "
                "that is right."
            ) from None
        except RepositoryError as error:
            raise Untrusted(
                f"The update server's metadata is not what the release key signed, or is "
                f"older than before: {error}. Nothing is installed."
            ) from None
        except DownloadError as error:
            raise ServerFailed(
                f"The update server does not have all of its signed metadata: {error}."
            ) from None

    async def _look_up(self, base_url: str, root: bytes, target: str | None) -> Found:
        from opq_twisted.trust.tuf_client import Fetched, Need

        fetched = Fetched()
        self._cache.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                found: Found = await self._in_thread(self._work, base_url, root, fetched, target)
                return found
            except Need as need:
                wanted = need
            content = await self._fetch(wanted.url, wanted.max_length)
            if content is not None and content.lstrip().startswith(b"<"):
                raise ServerFailed(
                    f"{wanted.url} answers with a web page. If this network asks people to log in, "
                    "do so; the box tries again."
                )
            missing = DownloadHTTPError(f"there is no {wanted.url}", 404)
            fetched.keep(wanted.url, missing if content is None else content)

    def _work(self, base_url: str, root: bytes, fetched: "Fetched", target: str | None) -> Found:
        from opq_twisted.trust.tuf_client import is_older_copy, look_up, read_timestamp

        with self._cache_lock:
            # After a power cut, temporary files of TUF's client may remain.
            for left in self._cache.glob("tmp*"):
                left.unlink()
            try:
                found = look_up(self._cache, base_url, root, fetched, target)
                return Found(found, read_timestamp(self._cache))
            except RepositoryError as error:
                if is_older_copy(self._cache, fetched, error):
                    raise OlderCopy(
                        "The update server's copy of the signed metadata is older than what this "
                        f"box has seen ({error}): it may lag behind another copy. Nothing is "
                        "installed from it; try again in a minute."
                    ) from None
                raise
