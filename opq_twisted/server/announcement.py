"""Logs the releases that the server offers, its directory and its port."""

from collections.abc import Callable, Iterator

from tuf.api.metadata import Targets, Timestamp
from twisted.application.service import Service
from twisted.logger import Logger

from opq_twisted.server.catalog.snapshot import Catalog, Snapshot
from opq_twisted.server.catalog.updates_file import Archive
from opq_twisted.server.timestamp.select import channels
from opq_twisted.server.timestamp.service import Timestamper
from opq_twisted.server.timestamp.state import MetadataState

#: Channels that are named.
_MAX_CHANNELS = 5


class Announcement(Service):
    """Logs the offer once the server listens and has read everything, and then each newest one."""

    _log = Logger()

    def __init__(self, url: Callable[[], str], catalog: Catalog, timestamper: Timestamper) -> None:
        """:param url: returns where the server listens."""
        self._url = url
        self._catalog = catalog
        self._timestamper = timestamper
        self._newest: Archive | None = None
        catalog.observers.append(self._catalog_changed)

    def startService(self) -> None:
        """Wait for the first check of the signed metadata."""
        self._timestamper.first_check.addCallback(lambda _: self._announce())

    def _announce(self) -> None:
        super().startService()
        snapshot = self._catalog.snapshot
        self._newest = snapshot.newest
        self._log.info(
            "Serving {directory} on {url}: {archives}. {signatures}",
            directory=self._catalog.directory,
            url=self._url(),
            archives=_describe(snapshot),
            signatures=_describe_signatures(self._timestamper.metadata_state),
        )

    def _catalog_changed(self, snapshot: Snapshot) -> None:
        if not self.running or snapshot.newest == self._newest:
            return
        self._newest = snapshot.newest
        if self._newest is None:
            directory = self._catalog.directory
            self._log.info("There is no update in {directory} any more.", directory=directory)
        else:
            self._log.info("The newest update is {name}.", name=self._newest.name)


def _describe(snapshot: Snapshot) -> str:
    if snapshot.newest is None:
        return "there is no update in it yet"
    number = len(snapshot.archives)
    if number == 1:
        return f"1 update, {snapshot.newest.name}"
    return f"{number:,} updates, the newest is {snapshot.newest.name}"


def _describe_signatures(state: MetadataState) -> str:
    if not state.present:
        return "There is no signed metadata."
    targets = state.documents.get(Targets.type)
    if targets is None or Timestamp.type not in state.documents:
        return "The signed metadata announces nothing."
    named = list(_describe_channels(targets.signed))
    left = len(named) - _MAX_CHANNELS
    more = [f"and {left} more"] if left > 0 else []
    offers = ", ".join([*named[:_MAX_CHANNELS], *more]) or "no channel"
    return f"The signed metadata announces {offers}."


def _describe_channels(targets: Targets) -> Iterator[str]:
    for name, _, archive in channels(targets):
        yield f"{archive} in the channel {name}"
