"""Follows the update server's signed metadata, fetching each file on the reactor."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from threading import Lock

from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
    RepositoryError,
)
from tuf.ngclient import TargetFile
from twisted.internet.defer import Deferred, DeferredLock, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThread

from opq_twisted.box.download.verify import InThread
from opq_twisted.common.errors import OlderCopy, ServerFailed, Stale, Untrusted
from opq_twisted.trust.tuf_client import Fetched, Need, is_older_copy, look_up

#: Seconds that a lookup may take, over all the files it needs.
_LONGEST_LOOKUP = 600.0

#: Gives what is at a URL, of at most so many bytes, or None when there is nothing.
Fetch = Callable[[str, int], Awaitable[bytes | None]]


class SignedMetadata:
    """
    Finds signed targets.

    TUF's own client would block. So it works in a thread, with what has been fetched so far; when
    it lacks a file that is fetched, and it begins again. It ends at once when it is cancelled.
    """

    def __init__(
        self, clock: IReactorTime, fetch: Fetch, cache: Path, in_thread: InThread = deferToThread
    ) -> None:
        """:param cache: the folder of the metadata that was trusted last."""
        self._clock = clock
        self._fetch = fetch
        self._cache = cache
        self._in_thread = in_thread
        # The cache is for one at a time: a click and a scheduled look may coincide.
        self._one_at_a_time = DeferredLock()
        # A lookup that was cancelled may still have its thread.
        self._cache_in_use = Lock()

    async def find(self, base_url: str, root: bytes, target: str | None) -> TargetFile | None:
        """
        Look up a target; None when it is not signed. Without a target only the metadata is renewed.

        :param root: the metadata of the root role that is trusted from the start.
        :raises Untrusted: when what the server has is not signed as it must be, or goes back.
        :raises OlderCopy: when its timestamp is an older one than the box has seen.
        :raises Stale: when it has expired.
        :raises ServerFailed: when the server cannot be reached, or does not have all of it.
        :raises OSError: when the cache cannot be used.
        """
        try:
            async with self._one_at_a_time:
                looking = Deferred.fromCoroutine(self._find(base_url, root, target))
                return await looking.addTimeout(_LONGEST_LOOKUP, self._clock)
        except TimeoutError:
            raise ServerFailed(
                f"The update server took more than {_LONGEST_LOOKUP / 60:.0f} minutes to send its "
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
                f"The update server's metadata is not what the release key signed, or goes back: "
                f"{error}. Nothing is installed."
            ) from None
        except DownloadError as error:
            raise ServerFailed(
                f"The update server does not have all of its signed metadata: {error}."
            ) from None

    async def _find(self, base_url: str, root: bytes, target: str | None) -> TargetFile | None:
        fetched = Fetched()
        self._cache.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                found: TargetFile | None = await self._in_thread(
                    self._work, base_url, root, fetched, target
                )
                return found
            except Need as need:
                wanted = need
            answer = await self._fetch(wanted.url, wanted.max_length)
            if answer is not None and answer.lstrip().startswith(b"<"):
                raise ServerFailed(
                    f"{wanted.url} answers with a web page. If this network asks people to log in, "
                    "do so; the box tries again."
                )
            missing = DownloadHTTPError(f"there is no {wanted.url}", 404)
            fetched.keep(wanted.url, missing if answer is None else answer)

    def _work(
        self, base_url: str, root: bytes, fetched: Fetched, target: str | None
    ) -> TargetFile | None:
        with self._cache_in_use:
            # TUF's client leaves what it was writing when the power was cut.
            for left in self._cache.glob("tmp*"):
                left.unlink()
            try:
                return look_up(self._cache, base_url, root, fetched, target)
            except RepositoryError as error:
                if is_older_copy(self._cache, fetched, error):
                    raise OlderCopy(
                        "The update server's copy of the signed metadata is older than what this "
                        f"box has seen ({error}): it may lag behind another copy. Nothing is "
                        "installed from it; try again in a minute."
                    ) from None
                raise
