"""Keeps the timestamp of the signed metadata fresh, or checks that another server does."""

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.metadata import Timestamp
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import Logger, LogLevel

from opq_twisted.common.heartbeat import Heartbeat
from opq_twisted.server.catalog.inotify import Watch
from opq_twisted.server.catalog.snapshot import Catalog, Snapshot
from opq_twisted.server.catalog.watcher import HEARTBEAT
from opq_twisted.server.timestamp.alerts import Alert, AlertLog, expiry_alerts
from opq_twisted.server.timestamp.bounded_source import BoundedSource
from opq_twisted.server.timestamp.state import MetadataState, refresh_timestamp
from opq_twisted.server.timestamp.store import MetadataFolder
from opq_twisted.trust.pace import PaceSource

InThread = Callable[..., Deferred[MetadataState]]


class Timestamper(Service):
    """
    Checks the metadata at the start, after each reported change, and at every heartbeat.

    A check reads, signs and writes in a thread. The next check begins when it has ended.
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
        pace: PaceSource | None = None,
    ) -> None:
        """
        :param signer: the timestamp key; None if another server signs.
        :param heartbeat: seconds between two checks while nothing changes.
        :param now: returns the seconds since the epoch.
        :param pace: knows the pace of the rollouts; None without a database of the fleet.
        """
        self._catalog = catalog
        self._signer = signer
        self._heartbeat = Heartbeat(reactor, self._check, lambda: heartbeat)
        self._in_thread = in_thread
        self._folder = MetadataFolder(catalog.directory)
        self._pace = None if pace is None else BoundedSource(pace)
        self._watch = Watch(
            reactor, self._folder.folder, self._touched, self.check_soon, self.check_soon
        )
        self._alert_log = AlertLog()
        self._failure: Alert | None = None
        self.now = now
        #: Called with the state of the metadata after each check.
        self.observers: list[Callable[[MetadataState], None]] = []
        #: The state of the metadata at the last check.
        self.metadata_state = MetadataState(present=False)
        #: Fires after the first check, whether that succeeded or not.
        self.first_check: Deferred[None] = Deferred()
        #: How many timestamps were signed.
        self.signed = 0

    @property
    def problem(self) -> bool:
        """Whether boxes do not see the newest release, or will not see it for much longer."""
        return self._failure is not None or bool(self.metadata_state.alerts)

    @property
    def reason_not_to_widen(self) -> str | None:
        """
        Why no more boxes should be asked to install anything, in a sentence; None if there is none.

        Either boxes would not see the change, or would soon install nothing any more.
        """
        documents = self.metadata_state.documents
        if Timestamp.type not in documents:
            return "There is no timestamp that boxes accept."
        alerts = (
            *([] if self._failure is None else [self._failure]),
            *(each for each in self.metadata_state.alerts if each.level is LogLevel.error),
            *expiry_alerts(documents, self.now()),
        )
        return alerts[0].sentence if alerts else None

    def startService(self) -> None:
        """Check for the first time; the catalog must have read its directory."""
        super().startService()
        self.check_soon()
        self._heartbeat.startService()

    def stopService(self) -> None:
        """Check no more."""
        super().stopService()
        self._watch.end()
        self._heartbeat.stopService()

    def check_soon(self) -> None:
        """Check in the next turn of the reactor, or directly after the current check."""
        self._heartbeat.run_now()

    def catalog_changed(self, _snapshot: Snapshot) -> None:
        """Check again: a metadata set may have waited for its archive."""
        if self.metadata_state.present:
            self.check_soon()

    def directory_touched(self, names: Collection[str]) -> None:
        """Check again if something happened to the folder itself."""
        if self._folder.folder.name in names:
            self.check_soon()

    def _touched(self, name: str) -> None:
        # Unfinished files have such names. If a timestamp cannot be written, its temporary file
        # must not cause the next attempt at once, for ever.
        if not name.startswith("."):
            self.check_soon()

    async def _check(self) -> None:
        now = self.now()
        failure: Alert | None = Alert("The signed metadata was not checked.")
        with self._log.failuresHandled("checking the signed metadata failed"):
            try:
                # The watch comes first: earlier changes are read, and later ones are reported.
                # When a missing folder appears, the updates directory reports that.
                with suppress(OSError):
                    self._watch.renew()
                self.metadata_state = await self._in_thread(
                    refresh_timestamp,
                    self._folder,
                    self._catalog.snapshot,
                    self._signer,
                    now,
                    self._pace,
                )
            except OSError as error:
                path, reason = self._folder.folder, error.strerror
                failure = Alert(f"Cannot check the signed metadata in {path}: {reason}.")
            else:
                failure = None
                self._end_first_check()
                if self.metadata_state.signed is not None:
                    self.signed += 1
                    self._log.info("signed {what}", what=self.metadata_state.signed)
                for observer in self.observers:
                    observer(self.metadata_state)
        self._failure = failure
        self._end_first_check()
        self._alert_log.log(self._alerts(now), now)

    def _end_first_check(self) -> None:
        if not self.first_check.called:
            self.first_check.callback(None)

    def _alerts(self, now: float) -> list[Alert]:
        failures = [] if self._failure is None else [self._failure]
        state = self.metadata_state
        return [*failures, *state.alerts, *expiry_alerts(state.documents, now)]
