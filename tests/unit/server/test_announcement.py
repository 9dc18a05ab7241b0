"""The log says what the server offers."""

from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.server.announcement import Announcement
from opq_twisted.server.catalog.snapshot import Catalog
from opq_twisted.server.timestamp.service import Timestamper
from opq_twisted.server.timestamp.state import MetadataState, refresh_timestamp
from opq_twisted.server.timestamp.store import MetadataFolder
from tests.helpers.archives import make_archive, name_of
from tests.helpers.box_fakes import logged
from tests.helpers.signed_metadata import Signed


class AnnouncementTests(SynchronousTestCase):
    """The first lines of the log, and those about new updates."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.catalog = Catalog(self.directory)
        self.timestamper = Timestamper(Clock(), self.catalog, None)
        self.said = logged(self)

    def start(self) -> Announcement:
        """Start the announcement, and then let the first check end."""
        announcement = Announcement(lambda: "http://x:1", self.catalog, self.timestamper)
        announcement.startService()
        self.catalog.rescan()
        self.assertEqual(self.said, [])
        self.timestamper.first_check.callback(None)
        return announcement

    def add(self, *versions: int) -> None:
        for version in versions:
            make_archive(self.directory / name_of(version), version)

    def assert_first_line(self, offer: str) -> None:
        self.start()
        self.assertEqual(self.said, [f"Serving {self.directory} on http://x:1: {offer}"])

    def test_empty(self) -> None:
        """An empty directory is said to have no update yet."""
        self.assert_first_line("there is no update in it yet. There is no signed metadata.")

    def test_one(self) -> None:
        """A single archive is named."""
        self.add(1)
        self.assert_first_line(f"1 update, {name_of(1)}. There is no signed metadata.")

    def test_several(self) -> None:
        """Of several archives, the number and the newest one are logged."""
        self.add(1, 2, 3)
        self.assert_first_line(
            f"3 updates, the newest is {name_of(3)}. There is no signed metadata."
        )

    def test_signed(self) -> None:
        """The channels of the signed metadata are logged."""
        self.add(2)
        signed = Signed(self.directory).init()
        signed.announce(1, self.directory / name_of(2))
        self.timestamper.metadata_state = self.check(signed)
        self.assert_first_line(
            f"1 update, {name_of(2)}. "
            f"The signed metadata announces {name_of(2)} in the channel stable."
        )

    def test_unusable_signatures(self) -> None:
        """Metadata that boxes do not accept announces nothing."""
        self.timestamper.metadata_state = self.check(Signed(self.directory).init())
        self.assert_first_line(
            "there is no update in it yet. The signed metadata announces nothing."
        )

    def check(self, signed: Signed) -> MetadataState:
        self.catalog.rescan()
        folder = MetadataFolder(self.directory)
        return refresh_timestamp(folder, self.catalog.snapshot, None, signed.now)

    def test_changes(self) -> None:
        """Each change of the newest archive is logged, and no other change."""
        self.add(2)
        self.start()
        self.add(1)
        self.catalog.rescan()
        self.assertEqual(len(self.said), 1)
        self.add(3)
        self.catalog.rescan()
        self.assertEqual(self.said[1:], [f"The newest update is {name_of(3)}."])
        for path in self.directory.iterdir():
            path.unlink()
        self.catalog.rescan()
        self.assertEqual(self.said[2:], [f"There is no update in {self.directory} any more."])


class FirstCheckTests(SynchronousTestCase):
    """The end of the first check of the metadata."""

    def test_failed(self) -> None:
        """It is reported although the check fails, and only once."""
        clock = Clock()
        catalog = Catalog(Path(self.mktemp()))
        checks: list[Deferred[MetadataState]] = []

        def in_thread(*_: object) -> Deferred[MetadataState]:
            checks.append(Deferred())
            return checks[-1]

        timestamper = Timestamper(clock, catalog, None, heartbeat=1.0, in_thread=in_thread)
        timestamper.startService()
        clock.advance(0)
        self.assertNoResult(timestamper.first_check)
        checks[0].errback(PermissionError(13, "Permission denied"))
        self.successResultOf(timestamper.first_check)
        clock.advance(1)
        checks[1].callback(MetadataState(present=False))
        self.successResultOf(timestamper.first_check)
        timestamper.stopService()
