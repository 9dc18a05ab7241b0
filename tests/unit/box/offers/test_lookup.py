"""The release that a box is offered, with or without a trusted root."""

import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.config.settings import UpdaterConfig
from opq_twisted.box.network.update_server import UpdateServerClient
from opq_twisted.box.offers.clock_floor import ClockFloor
from opq_twisted.box.offers.lookup import OfferLookup
from opq_twisted.box.offers.tuf_lookup import SignedMetadata
from opq_twisted.box.state.versions import Installed
from opq_twisted.common.errors import (
    ClockBehind,
    OpqError,
    ServerFailed,
    Stale,
    UnsignedRefused,
    Untrusted,
)
from opq_twisted.trust.offer import Offer
from tests.helpers.box_fakes import NEW, NEWER, OLD
from tests.helpers.privileges import without_privileges
from tests.helpers.signed_metadata import channel, with_one_release

URL = "http://updates.example:8151"


class FakeServer(UpdateServerClient):
    """A server with the files of a directory, and a version."""

    def __init__(self, updates: Path) -> None:
        self.endpoint = URL
        self._updates = updates
        self.version: int | None = NEWER
        #: What was asked for.
        self.asked: list[str] = []

    async def newest(self) -> int | None:
        self.asked.append("version")
        return self.version

    async def read(self, url: str, limit: int) -> bytes | None:
        name = url.removeprefix(f"{URL}/")
        self.asked.append(name)
        path = self._updates / name
        return path.read_bytes() if path.exists() else None


class ReleasesCase(SynchronousTestCase):
    """A box with or without a trusted root, and a server that has signed and unsigned releases."""

    def setUp(self) -> None:
        self.updates = Path(self.mktemp())
        self.updates.mkdir()
        self.signed, self.archive = with_one_release(self.updates, NEW)
        self.box = Path(self.mktemp()).absolute()
        self.box.mkdir()
        self.trusted_root = self.box / "root.json"
        self.time = self.box / "last-good-time"
        self.installed = Installed(self.box / "VERSION", self.box / "IMAGE_VERSION")
        self.installed.version_file.write_text(f"{OLD}\n")
        self.now = float(NEW)
        self.synchronised = True
        self.server = FakeServer(self.updates)
        self.releases = self.make()

    def make(self, **settings: Any) -> OfferLookup:
        return OfferLookup(
            UpdaterConfig(trusted_root=self.trusted_root, **settings),
            self.server,
            SignedMetadata(Clock(), self.server.read, self.box / "tuf", maybeDeferred),
            ClockFloor(self.time, lambda: self.now, lambda: self.synchronised),
            self.installed,
        )

    def trust(self) -> None:
        """Give the box the root of the server's releases."""
        self.trusted_root.write_bytes((self.signed.folder / "1.root.json").read_bytes())

    def newest(self) -> Offer | None:
        return self.successResultOf(Deferred.fromCoroutine(self.releases.newest()))

    def assert_fails(self, kind: type[OpqError]) -> str:
        """Assert that the lookup fails; return its one or two sentences."""
        failure = self.failureResultOf(Deferred.fromCoroutine(self.releases.newest()), kind)
        sentence = str(failure.value)
        self.assertNotIn("\n", sentence)
        self.assertTrue(sentence.endswith("."), sentence)
        return sentence


class UnsignedTests(ReleasesCase):
    """A box without a trusted root."""

    def test_asks_the_server(self) -> None:
        """The server's version is the offer, without a signed size or hash."""
        self.assertEqual(self.newest(), Offer(NEWER))
        self.assertEqual(self.server.asked, ["version"])

    def test_nothing(self) -> None:
        """The server may have no update."""
        self.server.version = None
        self.assertIsNone(self.newest())

    def test_clock(self) -> None:
        """Without signatures, nothing expires, and the clock does not matter."""
        self.now = 0.0
        self.assertEqual(self.newest(), Offer(NEWER))
        self.assertFalse(self.time.exists())

    def test_permission(self) -> None:
        """Only the box's configuration can allow its installation."""
        with self.assertRaises(UnsignedRefused) as caught:
            self.releases.require_permission(Offer(NEW))
        self.assertIn(str(self.trusted_root), str(caught.exception))
        self.assertIn('"allow_unsigned": true', str(caught.exception))
        self.make(allow_unsigned=True).require_permission(Offer(NEW))

    def test_says_so(self) -> None:
        """A box is unsigned if it installs unsigned releases."""
        self.assertFalse(self.releases.signed)
        self.assertFalse(self.releases.unsigned)
        self.assertTrue(self.make(allow_unsigned=True).unsigned)


class SignedTests(ReleasesCase):
    """A box with a trusted root."""

    def setUp(self) -> None:
        super().setUp()
        self.trust()

    def test_asks_the_metadata(self) -> None:
        """The signed channel is the offer; the server's version is not requested."""
        target = channel(self.archive)
        self.assertEqual(self.newest(), Offer(NEW, target.length, target.hashes))
        self.assertEqual(
            self.server.asked,
            [
                "tuf/2.root.json",
                "tuf/timestamp.json",
                "tuf/1.snapshot.json",
                "tuf/1.targets.json",
            ],
        )

    def test_channel(self) -> None:
        """The configuration names the channel."""
        beta = channel(self.archive)
        beta.path, beta.unrecognized_fields["custom"]["critical"] = "beta", True
        self.signed.targets(2, {"stable": channel(self.archive), "beta": beta})
        self.signed.snapshot(2, 2)
        self.signed.timestamp(2, 2)
        for name, critical in (("stable", False), ("beta", True)):
            self.releases = self.make(channel=name)
            offer = self.newest()
            assert offer is not None
            self.assertEqual(offer.critical, critical)

    def test_no_channel(self) -> None:
        """A channel that is not signed has no release."""
        self.releases = self.make(channel="beta")
        self.assertIsNone(self.newest())
        self.assertNotIn("version", self.server.asked)

    def test_unusable_channel(self) -> None:
        """A signed channel that does not describe a release is an error."""
        target = channel(self.archive)
        target.unrecognized_fields["custom"]["version"] = NEWER
        self.signed.targets(2, {"stable": target})
        self.signed.snapshot(2, 2)
        self.signed.timestamp(2, 2)
        self.assertIn("The release key signed a channel", self.assert_fails(Untrusted))

    def test_permission(self) -> None:
        """A signed release needs no permission, and no setting makes the box unsigned."""
        self.releases.require_permission(Offer(NEW, signed=True))
        releases = self.make(allow_unsigned=True)
        self.assertTrue(releases.signed)
        with self.assertRaisesRegex(UnsignedRefused, "has got a trusted root since its last check"):
            releases.require_permission(Offer(NEW))
        self.assertFalse(releases.unsigned)

    def test_root_comes_later(self) -> None:
        """A root that is added while the agent runs counts at once."""
        self.trusted_root.unlink()
        self.assertEqual(self.newest(), Offer(NEWER))
        self.trust()
        offer = self.newest()
        assert offer is not None
        self.assertEqual(offer.version, NEW)


class NeverFallsBackTests(ReleasesCase):
    """A box with a root accepts no unsigned release, even if the root is unusable."""

    def setUp(self) -> None:
        super().setUp()
        self.releases = self.make(allow_unsigned=True)

    def assert_nothing_believed(self) -> str:
        sentence = self.assert_fails(Untrusted)
        self.assertEqual(self.server.asked, [])
        self.assertTrue(self.releases.signed)
        self.assertFalse(self.releases.unsigned)
        self.assertFalse(self.time.exists())
        return sentence

    def test_unusable(self) -> None:
        """A link to nothing or to itself, a folder, a FIFO, and too large a file are unusable."""
        for plant, words in (
            (
                lambda: self.trusted_root.symlink_to("nowhere"),
                f"{self.trusted_root} cannot be read",
            ),
            (lambda: self.trusted_root.symlink_to(self.trusted_root), "cannot be read"),
            (lambda: self.trusted_root.write_bytes(bytes(512_001)), "too large"),
            (lambda: os.mkfifo(self.trusted_root), "not a regular file"),
        ):
            plant()
            self.assertIn(words, self.assert_nothing_believed())
            self.trusted_root.unlink()
        self.trusted_root.mkdir()
        self.assertIn("Is a directory", self.assert_nothing_believed())

    def test_unreadable(self) -> None:
        """A file that the agent may not read counts as a root."""
        self.trust()
        self.trusted_root.chmod(0)
        self.box.parent.chmod(0o755)
        with without_privileges():
            self.assertIn("Permission denied", self.assert_nothing_believed())

    def test_hidden(self) -> None:
        """A file in an unreadable folder counts as a root."""
        self.trusted_root = self.box / "etc" / "root.json"
        self.trusted_root.parent.mkdir(mode=0)
        self.addCleanup(self.trusted_root.parent.chmod, 0o700)
        self.box.parent.chmod(0o755)
        self.releases = self.make(allow_unsigned=True)
        with without_privileges():
            self.assertIn("Permission denied", self.assert_nothing_believed())

    def test_garbage(self) -> None:
        """A file that a power cut has damaged is an unusable root, like any other content."""
        self.trust()
        whole = self.trusted_root.read_bytes()
        for content in (
            b"",
            bytes(100),
            b"{}",
            whole[:-10],
            whole.replace(b'"sig":"', b'"sig":"00'),
        ):
            with self.subTest(content=content[:20]):
                self.trusted_root.write_bytes(content)
                self.assertIn(
                    "The box's trusted root cannot be used", self.assert_nothing_believed()
                )

    def test_server_without_metadata(self) -> None:
        """A server without signatures offers nothing to this box."""
        self.trust()
        self.signed.folder.rename(self.updates / "away")
        self.assert_fails(ServerFailed)
        self.assertNotIn("version", self.server.asked)


class ClockTests(ReleasesCase):
    """The clock, by which signatures expire."""

    def setUp(self) -> None:
        super().setUp()
        self.trust()

    def test_behind_release(self) -> None:
        """A clock behind the installed release, or the image's, is an error before all requests."""
        for path in (self.installed.version_file, self.installed.image_file):
            path.write_text(f"{NEWER}\n")
            self.assertIn("Waiting for the clock", self.assert_fails(ClockBehind))
            path.unlink()
        self.assertEqual(self.server.asked, [])
        self.assertFalse((self.box / "tuf").exists())

    def test_behind_record(self) -> None:
        """A clock behind the recorded time is an error, unless it is synchronised."""
        self.time.write_text(f"{NEWER}\n")
        self.synchronised = False
        self.assert_fails(ClockBehind)
        self.assertEqual(self.server.asked, [])
        self.now = NEWER
        self.assertIsNotNone(self.newest())

    def test_was_ahead(self) -> None:
        """Once the clock is right again, updates go on, and the right time is recorded."""
        self.time.write_text(f"{NEWER}\n")
        self.assertIsNotNone(self.newest())
        self.assertEqual(self.time.read_text(), f"{NEW}\n")

    def test_recorded(self) -> None:
        """The time of verified signatures is recorded."""
        self.newest()
        self.assertEqual(self.time.read_text(), f"{NEW}\n")

    def test_not_recorded(self) -> None:
        """The time of a failed lookup is not recorded: the clock may be years ahead."""
        self.signed.timestamp(2, 1, days=-1)
        self.assert_fails(Stale)
        self.signed.timestamp(3, 1, signer=self.signed.keys["root"])
        self.assert_fails(Untrusted)
        (self.signed.folder / "timestamp.json").unlink()
        self.assert_fails(ServerFailed)
        self.assertFalse(self.time.exists())
