"""Keeps the timestamp of the signed metadata fresh, or watches how another server does."""

import time
from collections.abc import Callable, Collection
from typing import Any

from securesystemslib.signer import Signer
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from opq_twisted.common.heartbeat import Heartbeat
from opq_twisted.server.catalog.inotify import Watch
from opq_twisted.server.catalog.snapshot import Catalog, Snapshot
from opq_twisted.server.catalog.watcher import HEARTBEAT
from opq_twisted.server.timestamp.alerts import Alert, AlertLog
from opq_twisted.server.timestamp.expiry import warnings
from opq_twisted.server.timestamp.state import MetadataState, refresh_timestamp
from opq_twisted.server.timestamp.store import MetadataFolder

InThread = Callable[..., Deferred[MetadataState]]


class Timestamper(Service):
    """
    Looks at the metadata at the start, at each change that is told, and at every heartbeat.

    The looking, signing and writing is done in a thread, one look after the other.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        catalog: Catalog,
        signer: Signer | None,
        heartbeat: float = HEARTBEAT,
        now: Callable[[], float] = time.time,
        in_thread: InThread = deferToThread,
    ) -> None:
        """
        Prepare to look.

        :param signer: the timestamp's key; None where another server signs.
        :param now: the time, in seconds since the epoch.
        """
        self._catalog = catalog
        self._signer = signer
        self._heartbeat = Heartbeat(reactor, self._look, lambda: heartbeat)
        self._in_thread = in_thread
        self._folder = MetadataFolder(catalog.directory)
        self._look_soon = self._heartbeat.run_now
        self._watch = Watch(
            reactor, self._folder.path, self._touched, self._look_soon, self._look_soon
        )
        self._alert_log = AlertLog()
        self._failure: Alert | None = None
        self.now = now
        #: Called with how the metadata is, after each look.
        self.observers: list[Callable[[MetadataState], None]] = []
        #: How the metadata was at the last look.
        self.metadata_state = MetadataState(present=False)
        #: How many timestamps were signed.
        self.signed = 0

    @property
    def problem(self) -> bool:
        """Whether boxes are not told of the newest release, or will not be for much longer."""
        return self._failure is not None or bool(self.metadata_state.alerts)

    def startService(self) -> None:
        """Look for the first time; the catalog must know its directory."""
        super().startService()
        self._look_soon()
        self._heartbeat.startService()

    def stopService(self) -> None:
        """Look no more."""
        super().stopService()
        self._watch.end()
        self._heartbeat.stopService()

    def catalog_changed(self, _snapshot: Snapshot) -> None:
        """Look again: a snapshot may have waited for its archive."""
        if self.metadata_state.present:
            self._look_soon()

    def directory_touched(self, names: Collection[str]) -> None:
        """Look again when something happened to the folder itself."""
        if self._folder.path.name in names:
            self._look_soon()

    def _touched(self, name: str) -> None:
        # Such names have files on their way. One of ours that could not be written must not make us
        # try again at once, for ever.
        if not name.startswith("."):
            self._look_soon()

    async def _look(self) -> None:
        now = self.now()
        failure: Alert | None = Alert("The signed metadata was not looked at.")
        with self._log.failuresHandled("looking at the signed metadata failed"):
            try:
                # Watch first: what comes before it is read, what comes after it is reported.
                self._watch_what_is_there()
                self.metadata_state = await self._in_thread(
                    refresh_timestamp, self._folder, self._catalog.snapshot, self._signer, now
                )
            except OSError as error:
                path, reason = self._folder.path, error.strerror
                failure = Alert(f"Cannot look at the signed metadata in {path}: {reason}.")
            else:
                failure = None
                if self.metadata_state.signed is not None:
                    self.signed += 1
                    self._log.info("signed {what}", what=self.metadata_state.signed)
                for observer in self.observers:
                    observer(self.metadata_state)
        self._failure = failure
        self._alert_log.log(self._alerts(now), now)

    def _watch_what_is_there(self) -> None:
        try:
            self._watch.renew()
        except OSError:
            # There is none yet, or it has gone: the directory's own events tell of its coming.
            return

    def _alerts(self, now: float) -> list[Alert]:
        failures = [] if self._failure is None else [self._failure]
        return [
            *failures,
            *self.metadata_state.alerts,
            *warnings(self.metadata_state.documents, now),
        ]
