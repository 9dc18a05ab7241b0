"""A box's downloader in the test's own process, on a clock that runs fast."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.task import Clock

from opq_twisted.archive.name import UpdateName
from opq_twisted.archive.pieces import Index, read_index
from opq_twisted.archive.release import Release
from opq_twisted.box.download.archive_store import LAST_GOOD, ArchiveStore
from opq_twisted.box.download.downloader import Downloader
from opq_twisted.box.network.http_agent import make_http_clients
from opq_twisted.box.network.update_server import UpdateServerClient
from opq_twisted.common.errors import OpqError, WronglyJoined
from tests.functional.proxy import Proxy

OLD, NEW = 1500000000, 1600000000


class Hurried(Clock):
    """
    A clock on which a minute passes within a second.

    It stands while this process is busy, or waits for the server, so that a busy machine causes no
    timeouts.
    """

    #: The seconds of one step; there are some 200 steps a second.
    step = 0.5

    #: Whether the clock stands.
    stands: Callable[[], bool] = staticmethod(lambda: False)

    def tick(self) -> None:
        if not self.stands():
            self.advance(self.step)


class Download:
    """A box's downloader, in the test's own process."""

    def __init__(
        self, clock: Hurried, url: str, archive: bytes, folder: Path, proxy: Proxy | None = None
    ) -> None:
        """
        :param archive: what arrives in the end.
        :param proxy: stops the clock while it waits for the server.
        """
        if proxy is not None:
            clock.stands = lambda: proxy.waiting > 0
        self._archive = archive
        self._folder = folder
        self._store = ArchiveStore(folder)
        http = make_http_clients(reactor)
        server = UpdateServerClient(clock, http, url, lambda: "opq-box-agent")
        self._downloader = Downloader(clock, server, self._store)
        #: Whether nothing is copied, because an assembled archive was wrong.
        self.whole = False
        #: The bytes that travelled, as the downloader says.
        self.fetched = 0
        #: The last good archive.
        self.last_good = self._store.path(OLD)
        folder.mkdir()

    def keep_as_last_good(self, archive: bytes) -> None:
        """Keep an archive as the last good one."""
        self.last_good.write_bytes(archive)
        self._store.keep_as_last_good(Release(OLD, None, {"sha256": digest(archive)}))

    async def fails(self, release: Release) -> str | None:
        """Download and verify; returns the reason of a failure, or None."""
        try:
            promised, self.fetched = await self._downloader.fetch(
                release, lambda _: None, lambda _: None, self.whole
            )
            received, file = await self._downloader.verify(promised)
        except OpqError as error:
            self.whole |= isinstance(error, WronglyJoined)
            self.has_nothing_wrong()
            return str(error)
        with file:
            assert file.read() == self._archive
        assert received == Release(NEW, len(self._archive), {"sha256": digest(self._archive)})
        name = str(UpdateName(NEW))
        others = {path.name for path in self._folder.iterdir() if str(OLD) not in path.name}
        assert others - {LAST_GOOD} == {name, f"{name}.pieces"}
        return None

    def has_nothing_wrong(self) -> None:
        """Check that no incomplete file has the name of the archive."""
        path = self._store.path(NEW)
        assert not path.exists() or path.read_bytes() == self._archive


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def index_of(path: Path) -> Index:
    """Index an archive, as servers and boxes do."""
    with path.open("rb") as archive:
        return read_index(archive.fileno(), path.stat().st_size)
